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
from scipy.stats import binomtest

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
from edgevit.data.class_order import possible_orders
from edgevit.errors import ArtifactError, CheckFailed, DataError, listed
from edgevit.evaluation.classify import labels_for, predict_probabilities
from edgevit.progress import Progress
from edgevit.runtimes.base import Session, SessionOptions, input_batches
from edgevit.runtimes.sessions import open_session

LARGEST_CHANCE = 0.01  # of an order of classes that luck alone would make seem right


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
    """The model, its classes called as the support set's are where it does not name its own and they are as many.

    Their order is the one that the model's answers to the support images fit, by a clear margin.

    Raises:
        DataError: the answers fit no order, or two of them.
        ArtifactError: an answer is no number.
    """
    own, given = model.io.classes, tuple(support.classes)
    orders = possible_orders(given)
    known = model.io.names_its_classes or (set(own) == set(given) and not orders)
    if known or len(own) != len(given) or support.labels is None or not len(support):
        return model
    candidates = list(orders.values()) or [given]
    predicted = _predicted(model, support, progress)
    labels = np.array(given)[support.labels]
    right = [np.array(names)[predicted] == labels for names in candidates]
    best = int(np.argmax([found.sum() for found in right]))
    if not _clearly_right(right, best, len(given)):
        raise _no_order(model, support, candidates, right)
    names, hits = candidates[best], int(right[best].sum())
    progress.say(
        "the model does not name its classes: they are called as those of the support set, in the order "
        f"{listed(names)}, by which {hits} of its {len(labels)} answers are right"
    )
    return model.calling_its_classes(names)


def _predicted(model: Artifact, support: Dataset, progress: Progress) -> NDArray[np.int64]:
    """The output with the largest score for each image, (n,)."""
    pictures = (support.image(index) for index in range(len(support)))
    found = []
    with progress.bar("order of classes", len(support), "images") as bar:
        for part in predict_probabilities(open_session(model, SessionOptions()), pictures, batch_size=1):
            found.append(int(part[0].argmax()))
            bar.advance()
    return np.array(found, np.int64)


def _clearly_right(right: Sequence[NDArray[np.bool_]], best: int, num_classes: int) -> bool:
    """Whether an order is right more often than chance, and than each other where the two disagree (sign test)."""
    by_chance = binomtest(int(right[best].sum()), len(right[best]), 1 / num_classes, alternative="greater").pvalue
    if by_chance > LARGEST_CHANCE:
        return False
    for other in (one for index, one in enumerate(right) if index != best):
        for_best, for_other = int((right[best] & ~other).sum()), int((other & ~right[best]).sum())
        both = for_best + for_other
        if not both or binomtest(for_best, both, alternative="greater").pvalue > LARGEST_CHANCE:
            return False
    return True


def _no_order(
    model: Artifact, support: Dataset, candidates: Sequence[tuple[str, ...]], right: Sequence[NDArray[np.bool_]]
) -> DataError:
    tried = "; ".join(
        f"{int(hits.sum())} of {len(hits)} answers right in the order {listed(names)}"
        for names, hits in zip(candidates, right, strict=True)
    )
    return DataError(
        "the model does not name its classes, and its answers do not show which of the support set's they are",
        where=support.name,
        got=f"the model's: {listed(model.io.classes)}; {tried}",
        expected="an order by which clearly more answers are right than by chance",
        next="say the order: --class-order natural or text, or --labels FILE; in a recipe: classes of the load stage",
    )


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
