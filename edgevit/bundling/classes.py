"""The classes that a bundle holds as data: made of a support set, changed and read from outside of the bundle."""

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
from edgevit.bundling.learned import is_traced, learned_from
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
from edgevit.errors import ArtifactError, CheckFailed, DataError, listed
from edgevit.evaluation.classify import labels_for
from edgevit.progress import Progress
from edgevit.runtimes.base import Session, SessionOptions, input_batches
from edgevit.runtimes.sessions import open_session


@dataclass(frozen=True, eq=False)
class ClassImages:
    """The images that make a bundle's classes, and those that its rates are measured on.

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
    """The images among a bundle's inputs: `support`, `unseen` and `unknown`; None where there is no support.

    Args:
        in_recipe: the data sets are those of the recipe that made the model, so that it is known what was learned.

    Raises DataError if a stage behind the model learned from the unseen images.
    """
    if "support" not in inputs:
        return None
    model, opened = inputs["model"], {name: open_dataset(one) for name, one in inputs.items() if name != "model"}
    if "unseen" in inputs and (stage := learned_from(model, inputs["unseen"])):
        raise DataError(
            f"these images are no unseen ones: stage '{stage}' learned from them",
            where=inputs["unseen"].id,
            next="unseen: DATASET.val, of a data set that keeps a val part aside",
        )
    learned = not (in_recipe and is_traced(model)) or learned_from(model, inputs["support"]) is not None
    return ClassImages(learned=learned, **opened)


def named_by(support: Dataset, model: Artifact, progress: Progress) -> Artifact:
    """The model, its classes called as the support set's are where it does not name its own and they are as many."""
    own, given = model.io.classes, tuple(support.classes)
    if model.io.names_its_classes or len(own) != len(given) or set(own) == set(given):
        return model
    progress.say("the model does not name its classes: they are called as those of the support set, in their order")
    return model.calling_its_classes(given)


def write_classes(model: Artifact, images: ClassImages, out: Path, progress: Progress) -> SupportSet:
    """Write `classes.npz` beside a bundle's `model.onnx`: what this very model sees in each image.

    Raises:
        ArtifactError: the model gives no embedding.
        DataError: images are unlabelled or too many, or their classes are not the model's; or an unseen image is in the
            support.
    """
    support, unseen = images.support, images.unseen
    _check(model, images)
    session = open_session(model, SessionOptions())
    labels = labels_for(session, support, progress)
    lacking = [name for label, name in enumerate(model.io.classes) if label not in labels]
    if lacking:
        got, expected = f"no image of {listed(lacking)}", "an image of each of the model's classes"
        raise DataError("the support set lacks classes", where=support.name, got=got, expected=expected)
    embeddings = _embeddings(session, support, progress)
    held = None if unseen is None else (_embeddings(session, unseen, progress), labels_for(session, unseen, progress))
    if unseen is not None and held is not None:
        _check_apart(unseen, held[0], embeddings)
    try:
        made = SupportSet.as_bundled(
            model.io.classes,
            embeddings,
            labels,
            sha256_of_file(out / "model.onnx"),
            learned=images.learned,
            unseen=held,
            unknown=None if images.unknown is None else _embeddings(session, images.unknown, progress),
        )
        write_support(made, out / FILE)
    except ClassesError as error:
        raise DataError(str(error), where=support.name) from None
    for line in rates(made).lines():
        progress.say(line)
    return made


def classes_since(folder: Path) -> tuple[SupportSet, PrototypeHead] | None:
    """What a bundle answers with if classes were added to it or removed since it was made; None otherwise.

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


def enroll(bundle: Path, arguments: Sequence[str]) -> str:
    """Run this version's own `enroll.py`, in a process of its own, on a bundle; gives what it printed.

    No code of the bundle runs: a folder from elsewhere may hold any.

    Raises:
        CheckFailed: a class cannot be told apart from the others.
        ArtifactError: anything else that the user can mend; the message says what.
    """
    if not (bundle / RECORD).is_file():
        raise ArtifactError("there is no bundle here", where=bundle, expected=f"a folder with a {RECORD}")
    with TemporaryDirectory(prefix="edgevit-") as folder:
        write_runner(Path(folder), RUNNER | ENROLLING)
        command = [sys.executable, "-B", str(Path(folder) / "enroll.py"), "--bundle", str(bundle), *arguments]
        answer = subprocess.run(
            command, capture_output=True, text=True, encoding="utf-8", env=environment(), check=False
        )
    said = answer.stderr.strip()
    if answer.returncode == 0:
        return answer.stdout
    if answer.returncode == 2:
        raise ArtifactError(said)
    if answer.returncode == 1 and "Traceback" not in said:
        raise CheckFailed(said)
    raise RuntimeError(said)


def _embeddings(session: Session, dataset: Dataset, progress: Progress) -> NDArray[np.float32]:
    found = []
    with progress.bar(dataset.name, len(dataset), "images") as bar:
        # One at a time, as on the device: kernels for larger batches may round otherwise.
        pictures = (dataset.image(index) for index in range(len(dataset)))
        for batch, _ in input_batches(session.spec, pictures, batch_size=1):
            found.append(session.infer({session.spec.inputs[0].name: batch})[EMBEDDING][0])
            bar.advance()
    return np.stack(found).astype(np.float32, copy=False)


def _check_apart(unseen: Dataset, embeddings: NDArray[np.float32], support: NDArray[np.float32]) -> None:
    """Raise DataError where the model sees in an unseen image exactly what it sees in one of the support."""
    known = {embedding.tobytes() for embedding in support}
    same = [name for name, one in zip(unseen.sample_ids, embeddings, strict=True) if one.tobytes() in known]
    if same:
        raise DataError(
            f"{len(same)} of the unseen images are in the support",
            where=unseen.name,
            got=listed(same),
            next="remove them",
        )


def _check(model: Artifact, images: ClassImages) -> None:
    """What can be known before the model runs."""
    if not model.io.has_embedding:
        raise ArtifactError(
            "the model gives no embedding, so that its bundle cannot take classes",
            where=model.id,
            got=", ".join(output.name for output in model.io.outputs),
            expected="logits, embedding",
            next="export it with embedding: true (edgevit export: --embedding)",
        )
    given = [one for one in (images.support, images.unseen, images.unknown) if one is not None]
    for one in given:
        if (one.labels is None and one is not images.unknown) or not len(one):
            got = "no labels" if len(one) else "no images"
            raise DataError("a bundle's classes need labelled images", where=one.name, got=got)
    width = next(output.shape[1] for output in model.io.outputs if output.name == EMBEDDING)
    most = LARGEST_FILE // (4 * int(width))
    if sum(map(len, given)) > most:
        raise DataError(
            "these are too many images for a bundle",
            where=", ".join(one.name for one in given),
            got=sum(map(len, given)),
            expected=f"at most {most}",
            next="give the data set few_shot: {shots: 20}, and support: DATASET.support",
        )
