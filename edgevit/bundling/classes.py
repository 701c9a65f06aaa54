"""The classes that a bundle holds as data: made of a support set, changed and read from outside of the bundle."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from edgevit.artifacts import EMBEDDING, Artifact, sha256_of_file
from edgevit.bundling.prototypes import (
    FILE,
    LARGEST_FILE,
    ClassesError,
    PrototypeHead,
    SupportSet,
    head_of,
    read_support,
    write_support,
)
from edgevit.bundling.runner import ENROLLING, RECORD, RUNNER, environment, write_runner
from edgevit.data import Dataset
from edgevit.data.class_order import possible_orders
from edgevit.errors import ArtifactError, CheckFailed, DataError, listed
from edgevit.evaluation.classify import labels_for, probabilities
from edgevit.progress import Progress
from edgevit.runtimes.base import SessionOptions, input_batches
from edgevit.runtimes.sessions import open_session

LARGEST_CHANCE = 0.01  # of an order of classes that luck alone would make seem right


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
        for part in probabilities(open_session(model, SessionOptions()), pictures, batch_size=1):
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


def write_classes(model: Artifact, support: Dataset, out: Path, progress: Progress) -> SupportSet:
    """Write `classes.npz` beside a bundle's `model.onnx`: what this very model sees in each image of the support set.

    Raises:
        ArtifactError: the model gives no embedding.
        DataError: the support set is unlabelled or too large, or its classes are not the model's.
    """
    _check(model, support)
    session = open_session(model, SessionOptions())
    labels = labels_for(session, support, progress)
    lacking = [name for label, name in enumerate(model.io.classes) if label not in labels]
    if lacking:
        got, expected = f"no image of {listed(lacking)}", "an image of each of the model's classes"
        raise DataError("the support set lacks classes", where=support.name, got=got, expected=expected)
    embeddings = []
    with progress.bar("support", len(support), "images") as bar:
        # One at a time, as on the device: kernels for larger batches may round otherwise.
        pictures = (support.image(index) for index in range(len(support)))
        for batch, _ in input_batches(model.io, pictures, batch_size=1):
            embeddings.append(session.infer({model.io.inputs[0].name: batch})[EMBEDDING][0])
            bar.advance()
    try:
        made = SupportSet(model.io.classes, np.stack(embeddings), labels, sha256_of_file(out / "model.onnx"))
        write_support(made, out / FILE)
    except ClassesError as error:
        raise DataError(str(error), where=support.name) from None
    return made


def classes_since(folder: Path) -> tuple[SupportSet, PrototypeHead] | None:
    """What a bundle answers with if classes were added to it or removed since it was made; None otherwise.

    Raises ArtifactError if its record or its classes cannot be read.
    """
    if not (folder / RECORD).is_file():
        return None
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if FILE not in record.get("changeable", {}):
            return None
        as_bundled = record["changeable"][FILE]["sha256_as_bundled"]
        support = read_support(folder / FILE)
    except (OSError, ValueError, AttributeError, LookupError, TypeError) as error:
        raise ArtifactError(f"it cannot be read: {error}", where=folder / RECORD) from None
    except ClassesError as error:
        raise ArtifactError(str(error)) from None
    return None if support.sha256 == as_bundled else (support, head_of(support))


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


def _check(model: Artifact, support: Dataset) -> None:
    """What can be known before the model runs."""
    if not model.io.has_embedding:
        raise ArtifactError(
            "the model gives no embedding, so that its bundle cannot take classes",
            where=model.id,
            got=", ".join(output.name for output in model.io.outputs),
            expected="logits, embedding",
            next="export it with embedding: true (edgevit export: --embedding)",
        )
    if support.labels is None or not len(support):
        got = "no labels" if len(support) else "no images"
        raise DataError("a bundle's support set needs labelled images", where=support.name, got=got)
    width = next(output.shape[1] for output in model.io.outputs if output.name == EMBEDDING)
    most = LARGEST_FILE // (4 * int(width))
    if len(support) > most:
        raise DataError(
            "these are too many images for a bundle",
            where=support.name,
            got=len(support),
            expected=f"at most {most}",
            next="give the data set few_shot: {shots: 20}, and support: DATASET.support",
        )
