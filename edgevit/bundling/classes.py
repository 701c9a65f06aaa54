"""The changeable classes of a bundle: made from a support set, and changed and read by edgevit."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from edgevit.artifacts import EMBEDDING, Artifact, sha256_of_file
from edgevit.bundling.infer import BundleError, read_record
from edgevit.bundling.prototypes import (
    FILE,
    LARGEST_FILE,
    ClassesError,
    PrototypeHead,
    SupportSet,
    head_of,
    rates,
    read_support,
    write_support,
)
from edgevit.bundling.runner import ENROLLING, RECORD, RUNNER, environment, write_runner
from edgevit.data import Dataset, open_dataset
from edgevit.data.class_order import possible_orders
from edgevit.errors import ArtifactError, CheckFailed, DataError, listed
from edgevit.evaluation.classify import labels_for, predict_probabilities
from edgevit.progress import Progress, SilentProgress
from edgevit.provenance import is_traced, learned_from
from edgevit.runtimes.base import Session, SessionOptions
from edgevit.runtimes.sessions import open_session

LARGEST_CHANCE = 0.01  # that a wrong order of classes seems right by luck


@dataclass(frozen=True, eq=False)
class ClassImages:
    """The images of a bundle's classes, and the images that its rates are measured on.

    Attributes:
        support: labelled images of each class.
        learned: whether the model may have learned from the support.
        unseen: labelled images that the model did not learn from.
        unknown: images of none of the classes.
    """

    support: Dataset
    learned: bool = True
    unseen: Dataset | None = None
    unknown: Dataset | None = None


def class_images(inputs: Mapping[str, Artifact], in_recipe: bool) -> ClassImages | None:
    """The images among a bundle's inputs: `support`, `unseen` and `unknown`; None without a support set.

    Args:
        in_recipe: whether the data sets belong to the recipe that made the model, so that its training data is known.

    Raises DataError if a stage behind the model learned from the unseen images.
    """
    if "support" not in inputs:
        return None
    model = inputs["model"]
    datasets = {name: open_dataset(artifact) for name, artifact in inputs.items() if name != "model"}
    if "unseen" in inputs and (stage := learned_from(model, inputs["unseen"])):
        raise DataError(
            f"these images are not unseen: stage '{stage}' learned from them",
            where=inputs["unseen"].id,
            next="unseen: DATASET.val, of a data set that keeps a val part aside",
        )
    learned = not (in_recipe and is_traced(model)) or learned_from(model, inputs["support"]) is not None
    return ClassImages(learned=learned, **datasets)


def named_by(support: Dataset, model: Artifact, progress: Progress) -> Artifact:
    """The model with the class names of the support set, if it has none of its own and the numbers agree.

    The order of the names is the one for which clearly most predictions on the support images are right.

    Raises:
        DataError: no order fits the predictions, or two orders do.
        ArtifactError: the model predicts NaN or infinity.
    """
    own, support_names = model.io.classes, tuple(support.classes)
    orders = possible_orders(support_names)
    is_named = model.io.names_its_classes or (set(own) == set(support_names) and not orders)
    if is_named or len(own) != len(support_names) or support.labels is None or not len(support):
        return model
    candidates = list(orders.values()) or [support_names]
    predicted = _predicted(model, support, progress)
    labels = np.array(support_names)[support.labels]
    hits = [np.array(names)[predicted] == labels for names in candidates]
    best = int(np.argmax([hits_of_order.sum() for hits_of_order in hits]))
    if not _clearly_right(hits, best, len(support_names)):
        raise _no_order(model, support, candidates, hits)
    names = candidates[best]
    progress.say(
        f"the model has no class names: it gets the names of the support set, in the order {listed(names)}; in this "
        f"order, {int(hits[best].sum())} of its {len(labels)} predictions are right"
    )
    return model.calling_its_classes(names)


def _predicted(model: Artifact, support: Dataset, progress: Progress) -> NDArray[np.int64]:
    """The output with the largest score for each image, (n,)."""
    images = (support.image(index) for index in range(len(support)))
    predicted = []
    with progress.bar("order of classes", len(support), "images") as bar:
        for batch in predict_probabilities(open_session(model, SessionOptions()), images, batch_size=1):
            predicted.append(int(batch[0].argmax()))
            bar.advance()
    return np.array(predicted, np.int64)


def _clearly_right(hits: Sequence[NDArray[np.bool_]], best: int, num_classes: int) -> bool:
    """Whether the best order beats chance (binomial test) and every other order (sign test where the two disagree)."""
    from scipy.stats import binomtest  # takes most of a second to import, and `predict` does not need it

    chance = binomtest(int(hits[best].sum()), len(hits[best]), 1 / num_classes, alternative="greater").pvalue
    if chance > LARGEST_CHANCE:
        return False
    for other in (hits_of_order for index, hits_of_order in enumerate(hits) if index != best):
        for_best, for_other = int((hits[best] & ~other).sum()), int((other & ~hits[best]).sum())
        disagreements = for_best + for_other
        if not disagreements or binomtest(for_best, disagreements, alternative="greater").pvalue > LARGEST_CHANCE:
            return False
    return True


def _no_order(
    model: Artifact, support: Dataset, candidates: Sequence[tuple[str, ...]], hits: Sequence[NDArray[np.bool_]]
) -> DataError:
    tried = "; ".join(
        f"{int(hits_of_order.sum())} of {len(hits_of_order)} predictions right in the order {listed(names)}"
        for names, hits_of_order in zip(candidates, hits, strict=True)
    )
    return DataError(
        "the model has no class names, and its predictions do not show the order of the support set's names",
        where=support.name,
        got=f"the model's: {listed(model.io.classes)}; {tried}",
        expected="an order with clearly more right predictions than by chance",
        next="give the order: --class-order natural or text, or --labels FILE; in a recipe: classes of the load stage",
    )


def write_classes(model: Artifact, images: ClassImages, out: Path, progress: Progress) -> SupportSet:
    """Write `classes.npz` beside a bundle's `model.onnx`: the model's embedding of each image.

    Raises:
        ArtifactError: the model has no embedding output.
        DataError: images are unlabelled or too many, or their classes are not the model's; or an unseen image is in the
            support set.
    """
    support, unseen = images.support, images.unseen
    _check(model, images)
    session = open_session(model, SessionOptions())
    labels = labels_for(session, support, progress)
    missing = [name for label, name in enumerate(model.io.classes) if label not in labels]
    if missing:
        got, expected = f"no image of {listed(missing)}", "an image of each class of the model"
        raise DataError("the support set lacks classes", where=support.name, got=got, expected=expected)
    embeddings = _embeddings(session, support, progress)
    held_out = None
    if unseen is not None:
        held_out = _embeddings(session, unseen, progress), labels_for(session, unseen, progress)
        _check_apart(unseen, held_out[0], embeddings)
    try:
        support_set = SupportSet.as_bundled(
            model.io.classes,
            embeddings,
            labels,
            sha256_of_file(out / "model.onnx"),
            learned=images.learned,
            unseen=held_out,
            unknown=None if images.unknown is None else _embeddings(session, images.unknown, progress),
        )
        write_support(support_set, out / FILE)
    except ClassesError as error:
        raise DataError(str(error), where=support.name) from None
    for line in rates(support_set).lines():
        progress.say(line)
    return support_set


def classes_since(folder: Path) -> tuple[SupportSet, PrototypeHead] | None:
    """The support set and head of a bundle whose classes were changed; None for a bundle with its first classes.

    Raises ArtifactError if its record or its classes cannot be read.
    """
    if not (folder / RECORD).is_file():
        return None
    try:
        changeable = read_record(folder)["changeable"]
        if FILE not in changeable:
            return None
        support = read_support(folder / FILE)
    except (BundleError, ClassesError) as error:
        raise ArtifactError(str(error)) from None
    return None if support.sha256 == changeable[FILE]["sha256_as_bundled"] else (support, head_of(support))


def enroll(bundle: Path, arguments: Sequence[str], progress: Progress | None = None) -> str:
    """Run this version's `enroll.py` on a bundle, in its own process; returns the output. `progress` says its notes.

    No code of the bundle runs, since a bundle from elsewhere may hold any code.

    Raises:
        CheckFailed: a class cannot be told from the others.
        ArtifactError: any other error that the user can fix.
    """
    if not (bundle / RECORD).is_file():
        raise ArtifactError("there is no bundle here", where=bundle, expected=f"a folder with a {RECORD}")
    with TemporaryDirectory(prefix="edgevit-") as folder:
        write_runner(Path(folder), RUNNER | ENROLLING)
        command = [sys.executable, "-B", str(Path(folder) / "enroll.py"), "--bundle", str(bundle), *arguments]
        ended = subprocess.run(
            command, capture_output=True, text=True, encoding="utf-8", env=environment(), check=False
        )
    message = ended.stderr.strip()
    if ended.returncode == 0:
        for note in message.splitlines():
            (progress or SilentProgress()).say(note)
        return ended.stdout
    if ended.returncode == 2:
        raise ArtifactError(message)
    if ended.returncode == 1 and "Traceback" not in message:
        raise CheckFailed(message)
    raise RuntimeError(message)


def _embeddings(session: Session, dataset: Dataset, progress: Progress) -> NDArray[np.float32]:
    embeddings: list[NDArray[np.float32]] = []
    with progress.bar(dataset.name, len(dataset), "images") as bar:
        # One at a time, as on the device: kernels for larger batches may round otherwise.
        images = (dataset.image(index) for index in range(len(dataset)))
        for outputs in session.outputs(images, batch_size=1):
            embeddings.extend(outputs[EMBEDDING])
            bar.advance(len(outputs[EMBEDDING]))
    return np.stack(embeddings).astype(np.float32, copy=False)


def _check_apart(unseen: Dataset, embeddings: NDArray[np.float32], support: NDArray[np.float32]) -> None:
    """Raise DataError if an unseen image has the embedding of an image in the support set."""
    known = {embedding.tobytes() for embedding in support}
    shared = [id for id, row in zip(unseen.sample_ids, embeddings, strict=True) if row.tobytes() in known]
    if shared:
        raise DataError(
            f"{len(shared)} of the unseen images are in the support",
            where=unseen.name,
            got=listed(shared),
            next="remove them",
        )


def _check(model: Artifact, images: ClassImages) -> None:
    """Checks before the model runs."""
    if not model.io.has_embedding:
        raise ArtifactError(
            "the model has no embedding output, so its bundle cannot take classes",
            where=model.id,
            got=", ".join(output.name for output in model.io.outputs),
            expected="logits, embedding",
            next="export it with embedding: true (edgevit export: --embedding)",
        )
    datasets = [dataset for dataset in (images.support, images.unseen, images.unknown) if dataset is not None]
    for dataset in datasets:
        if (dataset.labels is None and dataset is not images.unknown) or not len(dataset):
            got = "no labels" if len(dataset) else "no images"
            raise DataError("a bundle's classes need labelled images", where=dataset.name, got=got)
    width = next(output.shape[1] for output in model.io.outputs if output.name == EMBEDDING)
    most = LARGEST_FILE // (4 * int(width))
    if sum(map(len, datasets)) > most:
        raise DataError(
            "these are too many images for a bundle",
            where=", ".join(dataset.name for dataset in datasets),
            got=sum(map(len, datasets)),
            expected=f"at most {most}",
            next="give the data set few_shot: {shots: 20}, and support: DATASET.support",
        )
