"""The classes that a bundle holds as data: made of a support set, changed and read from outside of the bundle."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from edgevit.artifacts import EMBEDDING, Artifact, sha256_of_file
from edgevit.bundling.infer import BundleError, read_record
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
from edgevit.errors import ArtifactError, CheckFailed, DataError, listed
from edgevit.evaluation.classify import labels_for
from edgevit.progress import Progress
from edgevit.runtimes.base import SessionOptions, input_batches
from edgevit.runtimes.sessions import open_session


def named_by(support: Dataset, model: Artifact, progress: Progress) -> Artifact:
    """The model, its classes called as the support set's are where it does not name its own and they are as many."""
    own, given = model.io.classes, tuple(support.classes)
    if model.io.names_its_classes or len(own) != len(given) or set(own) == set(given):
        return model
    progress.say("the model does not name its classes: they are called as those of the support set, in their order")
    return model.calling_its_classes(given)


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
