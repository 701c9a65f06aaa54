"""The artifacts of a recipe's data sets and roles, and the samples of an artifact."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter

from edgevit.artifacts import LEARNED_TOO, Artifact, Json, Manifest, sha256_of
from edgevit.configs import DatasetConfig, EncodedImages, ImageFolder
from edgevit.data.class_names import alike_notes, check_class_names
from edgevit.data.dataset import NO_LABEL, SPLITS, UNLABELLED_SPLIT, Dataset, Indices, Source, SubsetImages
from edgevit.data.duplicates import Overlap, Uses, duplicate_notes, is_support, overlaps
from edgevit.data.folder_names import GIVE_CLASSES, inner_folders, label_notes
from edgevit.data.hashes import ImageStates
from edgevit.data.labels import class_indices, missing_classes, short_classes
from edgevit.data.pseudo_labels import LABELS, source_artifact, with_pseudo_labels
from edgevit.data.splits import lowest_of_each_class
from edgevit.errors import ArtifactError, DataError, RecipeError, did_you_mean, listed
from edgevit.progress import Progress


def dataset_artifacts(
    datasets: Mapping[str, DatasetConfig],
    base: Path,
    names: Iterable[str],
    cache: Path | None = None,
    progress: Progress | None = None,
    uses: Uses | None = None,
) -> dict[str, Artifact]:
    """An artifact for each of `names`, such as "digits" or "digits.support". It has a fingerprint and no files.

    Args:
        datasets: the data sets of a recipe.
        base: the folder that relative paths start from.
        names: the data sets and roles to read.
        cache: a JSON file with the hashes of files that did not change.
        progress: shows the reading of new images.
        uses: how stages use the data sets; decides how duplicate images are treated.

    Returns:
        Artifacts whose provenance holds `notes`, lines for the user, and, for tested data sets, the data sets that
        models learn from and that share images with them.

    Raises:
        RecipeError: there is no such data set or role.
        DataError: the data is missing, cannot be read or is too small for the role; or a tested image is in the
            support, or an image is under two classes of the support.
    """
    uses = uses or Uses()
    states = ImageStates(cache, progress)
    name_parts = {name: name.partition(".") for name in names}
    sources = _read_sources([source_name for source_name, _, _ in name_parts.values()], datasets, base)
    hashed: dict[str, Dataset] = {}
    unreadable: dict[str, dict[str, str]] = {}
    for name, (source_name, _, role) in name_parts.items():
        config, source = datasets[source_name], sources[source_name]
        hashed[name], unreadable[name] = _hashed(name, role, config, source, states)
    states.save()
    artifacts = {}
    for name, (source_name, _, role) in name_parts.items():
        shared = overlaps(name, hashed, uses)
        source_notes = [f"{source_name}: {note}" for note in sources[source_name].notes]
        role_notes = [f"{name}: {note}" for note in _role_notes(name, hashed[name], shared, unreadable[name], uses)]
        artifacts[name] = _artifact(
            hashed[name],
            {"dataset": datasets[source_name].model_dump(mode="json"), "role": role, "base": str(base.absolute())},
            sorted(unreadable[name]),
            source_notes + role_notes,
            [{**asdict(overlap), "digest": _fingerprint(hashed[overlap.data])} for overlap in shared],
        )
    return artifacts


def open_dataset(artifact: Artifact) -> Dataset:
    """The samples of an artifact: a data set of a recipe, or the pseudo-labels of a stage.

    Raises:
        ArtifactError: the artifact is not a data set, or its labels were altered.
        DataError: the data is missing, or its samples, labels or class names changed since the artifact was made.
    """
    if artifact.kind != "dataset":
        raise ArtifactError(f"this is a {artifact.kind}", where=artifact.id, expected="a dataset")
    if LABELS in artifact.manifest.files:
        return with_pseudo_labels(open_dataset(source_artifact(artifact)), artifact)
    recorded = artifact.manifest.config
    config: DatasetConfig = TypeAdapter(DatasetConfig).validate_python(recorded["dataset"])
    source = read_source(artifact.id.partition(".")[0], config, Path(recorded["base"]))
    if artifact.contents:
        dataset = select_role(artifact.id, recorded["role"], config, source, set(recorded["unreadable"]))
        dataset = replace(dataset, sha256=_rows(artifact.contents))
    else:  # the manifest was read from a file, without the hashes
        dataset, _ = _hashed(artifact.id, recorded["role"], config, source, ImageStates())
    if len(dataset) != len(dataset.contents()) or _fingerprint(dataset) != artifact.digest:
        raise DataError(
            "samples were added or removed, or their labels changed, while they were in use",
            where=artifact.id,
            got=f"{len(dataset)} images",
            expected=f"the {artifact.metrics['images']} images of the start, with their labels",
            next="start the run again",
        )
    return dataset


def read_source(name: str, config: DatasetConfig, base: Path) -> Source:
    """All samples of a data set whose classes are included. Relative paths start from `base`.

    Raises:
        DataError: the data cannot be read, a class of include_classes is missing, or there are fewer than two classes.
    """
    module = "cifar" if config.source in ("cifar10", "cifar100") else config.source
    source: Source = import_module(f"edgevit.data.sources.{module}").read(config, base)
    check_class_names(source.classes, f"data set '{name}'")
    if source.labels is None and not config.include_classes:
        return source
    if config.include_classes is not None:
        source = _only_classes(name, source, config.include_classes)
    if len(source.classes) < 2:
        raise _too_few_classes(name, config, source)
    return replace(source, notes=(*source.notes, *alike_notes(source.classes)))


def select_role(
    name: str, role: str, config: DatasetConfig, source: Source, unreadable: Collection[str] = frozenset()
) -> Dataset:
    """The samples of a role, without the `unreadable` ids.

    The role "" is all samples, but not the unlabelled ones of a labelled data set; train, val and test are splits;
    `support` holds the first `shots` samples of each class of train, by the hash of (draw, id), or all of train; `pool`
    is the rest of train and the unlabelled samples, without labels.

    Raises:
        RecipeError: the data set has no such role.
        DataError: a class has too few samples for the support, or the role has no sample.
    """
    indices = _candidates(name, role, config, source)
    readable = np.array([source.ids[index] not in unreadable for index in indices], bool)
    indices = indices[readable]
    if role in ("support", "pool"):
        support = _support(name, config, source, indices)
        indices = support if role == "support" else np.setdiff1d(indices, support)
    if not len(indices):
        raise DataError("the role has no images", where=name, next="add images, or use another role")
    labels = None if role == "pool" or source.labels is None else source.labels[indices]
    return Dataset(name, source.classes, tuple(source.ids[i] for i in indices), labels, source.images, indices)


def roles_of(config: DatasetConfig, source: Source) -> list[str]:
    """The named roles of a data set. The whole data set, role "", is not in the list."""
    present = set(source.splits)
    has_support = config.few_shot is not None and source.labels is not None and "train" in present
    has_pool = UNLABELLED_SPLIT in present or (has_support and not _all_are_support(config))
    return [
        *(split for split in SPLITS if split in present),
        *(["support"] if has_support else ()),
        *(["pool"] if has_pool else ()),
    ]


def _all_are_support(config: DatasetConfig) -> bool:
    return config.few_shot is not None and config.few_shot.shots == "all"


def _read_sources(names: Iterable[str], datasets: Mapping[str, DatasetConfig], base: Path) -> dict[str, Source]:
    """Each data set by its name, with the notes about its folder names."""
    sources: dict[str, Source] = {}
    for name in names:
        if name not in datasets:
            raise _unknown_dataset(name, datasets)
        if name not in sources:
            sources[name] = read_source(name, datasets[name], base)
    notes = {name: label_notes(name, datasets, sources) for name in sources}
    return {name: replace(source, notes=(*source.notes, *notes[name])) for name, source in sources.items()}


def _hashed(
    name: str, role: str, config: DatasetConfig, source: Source, known: ImageStates
) -> tuple[Dataset, dict[str, str]]:
    """The samples of a role with their hashes, and the reason for each sample id that cannot be read."""
    candidates = _candidates(name, role, config, source)
    states = dict(zip(candidates.tolist(), source.images.states(candidates.tolist(), known), strict=True))
    unreadable = {source.ids[i]: state.problem for i, state in states.items() if state.problem is not None}
    if unreadable and isinstance(config, EncodedImages) and config.on_bad_image == "refuse":
        raise DataError(
            f"{len(unreadable)} images cannot be read",
            where=name,
            got=listed([f"{sample_id} ({problem})" for sample_id, problem in unreadable.items()]),
            next="repair or remove the files, or set on_bad_image: skip",
        )
    dataset = select_role(name, role, config, source, set(unreadable))
    hashes = bytes.fromhex("".join(states[index].sha256 for index in dataset.indices.tolist()))
    return replace(dataset, sha256=_rows(hashes)), unreadable


def _rows(hashes: bytes) -> npt.NDArray[np.uint8]:
    return np.frombuffer(hashes, np.uint8).reshape(-1, hashlib.sha256().digest_size)


def _artifact(
    dataset: Dataset, config: Json, unreadable: list[str], notes: list[str], learned_too: list[Json]
) -> Artifact:
    assert dataset.sha256 is not None
    digest = _fingerprint(dataset)
    base = Path(config["base"])
    manifest = Manifest(
        kind="dataset",
        id=dataset.name,
        key=digest,
        digest=digest,
        stage="dataset",
        stage_version=1,
        config={**config, "unreadable": unreadable},
        metrics={"images": len(dataset), "classes": len(dataset.classes), "unreadable": len(unreadable)},
        provenance={"notes": notes, LEARNED_TOO: learned_too},
    )
    return Artifact(base, manifest, dataset.sha256.tobytes())


def _fingerprint(dataset: Dataset) -> str:
    """The sha256 of the class names and of each sample's id, content and label, as hexadecimal digits."""
    labels = [None] * len(dataset) if dataset.labels is None else dataset.labels.tolist()
    contents = [content.hex() for content in dataset.contents()]
    return sha256_of([dataset.classes, list(zip(dataset.sample_ids, contents, labels, strict=True))])


def _candidates(name: str, role: str, config: DatasetConfig, source: Source) -> Indices:
    """The positions of the samples that a role is selected from."""
    roles = roles_of(config, source)
    if role and role not in roles:
        raise RecipeError(
            f"the data set has no role '{role}'",
            where=name,
            expected=", ".join(roles),
            next=_way_to_role(role, config) or did_you_mean(role, roles),
        )
    labelled_roles: dict[str, set[str]] = {
        "": set(SPLITS),
        "support": {"train"},
        "pool": {UNLABELLED_SPLIT, *(["train"] if config.few_shot else ())},
    }
    wanted = labelled_roles.get(role, {role})
    return np.flatnonzero([split in wanted for split in source.splits])


def _way_to_role(role: str, config: DatasetConfig) -> str | None:
    """Advice for a data set that lacks the role `support` or `pool`."""
    if role == "pool" and (_all_are_support(config) or isinstance(config, ImageFolder)):
        return (
            "put images without labels in a folder 'unlabelled' beside the others, or leave the pool out of the stage"
        )
    needs_few_shot = role in ("support", "pool") and config.few_shot is None
    return "give the data set few_shot: {shots: 5}" if needs_few_shot else None


def _support(name: str, config: DatasetConfig, source: Source, candidates: Indices) -> Indices:
    """The positions of the support among the candidates of support or pool."""
    if config.few_shot is None:
        return np.empty(0, np.int64)
    assert source.labels is not None, "a data set without labels has no role support"
    shots = config.few_shot.shots
    train: Indices = candidates[source.labels[candidates] != NO_LABEL]
    labels = source.labels[train]
    counts = np.bincount(labels, minlength=len(source.classes))
    fewest = 1 if shots == "all" else shots
    if counts.min() < fewest:
        short = short_classes(source.classes, counts.tolist(), fewest)
        raise DataError(
            "classes have too few training images for the support set",
            where=name,
            got=listed(short),
            expected=f"at least {fewest} of each class",
            next="add images, lower few_shot.shots of the data set, or name the other classes in include_classes",
        )
    if shots == "all":
        return train
    ids = [source.ids[index] for index in train]
    drawn: Indices = train[lowest_of_each_class(ids, labels, shots, seed=f"draw {config.few_shot.draw}")]
    return drawn


def _only_classes(name: str, source: Source, wanted: tuple[str, ...]) -> Source:
    for class_name in missing_classes(wanted, source.classes):
        raise DataError(
            f"there is no class '{class_name}'",
            where=f"data set '{name}'",
            expected=listed(source.classes),
            next=did_you_mean(class_name, source.classes),
        )
    assert source.labels is not None, "a source without labels has no classes"
    kept = np.unique(class_indices(wanted, source.classes))
    indices = np.flatnonzero(np.isin(source.labels, [NO_LABEL, *kept]))
    new_labels = np.searchsorted(kept, source.labels[indices]).astype(np.int64)
    return Source(
        classes=tuple(source.classes[label] for label in kept),
        ids=tuple(source.ids[i] for i in indices),
        labels=np.where(source.labels[indices] == NO_LABEL, NO_LABEL, new_labels),
        splits=tuple(source.splits[i] for i in indices),
        images=SubsetImages(source.images, indices),
        notes=source.notes,
    )


def _too_few_classes(name: str, config: DatasetConfig, source: Source) -> DataError:
    got = ", ".join(source.classes) or "none"
    advice = None
    if isinstance(config, ImageFolder) and not config.include_classes:
        got = "; ".join((f"one folder, '{source.classes[0]}', with all {len(source.ids)} images", *source.notes))
        below = inner_folders(source)
        nested = f"set classes: leaf if the folders in it are the classes ({listed(below)})"
        advice = nested if len(below) > 1 else GIVE_CLASSES
    return DataError("a classifier needs at least two classes", where=f"data set '{name}'", got=got, next=advice)


def _unknown_dataset(name: str, datasets: Mapping[str, DatasetConfig]) -> RecipeError:
    return RecipeError(
        f"there is no data set '{name}'", expected=", ".join(datasets), next=did_you_mean(name, datasets)
    )


def _role_notes(
    name: str, dataset: Dataset, shared: Iterable[Overlap], unreadable: Mapping[str, str], uses: Uses
) -> list[str]:
    notes = [
        *_notes_on_empty_classes(dataset),
        *duplicate_notes(name, dataset, uses),
        *(overlap.note() for overlap in shared if overlap.data != name),
        *_notes_on_skipped_images(unreadable),
    ]
    return notes + _notes_on_class_sizes(dataset) if is_support(name, dataset, uses) else notes


def _notes_on_empty_classes(dataset: Dataset) -> list[str]:
    if dataset.labels is None:
        return []
    empty = np.setdiff1d(np.arange(len(dataset.classes)), dataset.labels)
    names = listed([dataset.classes[label] for label in empty])
    return [f"{len(empty)} of {len(dataset.classes)} classes have no image here: {names}"] if len(empty) else []


def _notes_on_class_sizes(support: Dataset) -> list[str]:
    assert support.labels is not None, "a support is labelled"
    counts = np.bincount(support.labels, minlength=len(support.classes))
    least, most = int(counts.argmin()), int(counts.argmax())
    if counts[least] == counts[most]:
        return []
    fewest, largest = (f"{counts[label]} ('{support.classes[label]}')" for label in (least, most))
    return [f"classes have from {fewest} to {largest} images"]


def _notes_on_skipped_images(unreadable: Mapping[str, str]) -> list[str]:
    if not unreadable:
        return []
    named = listed([f"{sample_id} ({problem})" for sample_id, problem in unreadable.items()])
    return [f"{len(unreadable)} images cannot be read and are skipped: {named}"]
