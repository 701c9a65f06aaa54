"""Labels for images."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgevit.artifacts import EMBEDDING, Artifact, IOSpec
from edgevit.bundling.prototypes import PrototypeHead, SupportSet
from edgevit.data.images import read_image
from edgevit.data.preprocess import image_suffixes, images_below, passed_over_notes, printable_path
from edgevit.errors import DataError
from edgevit.evaluation.classify import non_finite_scores
from edgevit.graphs.class_scores import LOGITS, probabilities
from edgevit.runtimes.base import Arrays, SessionOptions
from edgevit.targets import Target
from edgevit.targets.local import LocalCpu

ELSEWHERE = 32  # images in a batch on another target, where each batch is a message, or the start of a program


class Predicted(NamedTuple):
    """What was said about images.

    Attributes:
        answers: `{image, labels: [{label, confidence}]}` for each image that could be read.
        unread: what was wrong with the others, file named.
        notes: the files in folders that were passed over.
    """

    answers: list[dict[str, Any]]
    unread: list[DataError | OSError]
    notes: list[str]


def predict_images(
    model: Artifact,
    images: Sequence[Path | NDArray[np.uint8]],
    top: int,
    classes: tuple[SupportSet, PrototypeHead] | None = None,
    target: Target | None = None,
) -> Predicted:
    """Label each image; folders give the images below them, sorted.

    Args:
        images: files, folders, or RGB arrays (H, W, 3), which are called by their position.
        classes: a classifier that answers in place of the model's own.
        target: where the model runs; this machine's CPU by default.
    """
    names = classes[0].classes if classes else model.io.classes
    predicted, read = Predicted([], [], []), deque[str]()  # the names of images that the model has not answered yet
    target = target or LocalCpu()
    batch_size = 1 if isinstance(target, LocalCpu) else ELSEWHERE
    with target.open(model, SessionOptions()) as session:
        pixels = _readable(list(_images(images, predicted)), predicted, read)
        for outputs in session.outputs(pixels, batch_size):
            for confidence in _confidences(outputs, session.spec, classes[1] if classes else None):
                name = read.popleft()
                if not np.isfinite(confidence).all():
                    raise non_finite_scores(name)
                best = np.argsort(-confidence, kind="stable")[:top]
                labels = [{"label": names[i], "confidence": round(float(confidence[i]), 4)} for i in best]
                predicted.answers.append({"image": name, "labels": labels})
    return predicted


def _readable(
    sources: Iterable[tuple[str, Path | NDArray[np.uint8]]], predicted: Predicted, read: deque[str]
) -> Iterator[NDArray[np.uint8]]:
    """The images that can be read, whose names are added to `read`. The others are added to `predicted.unread`."""
    for name, source in sources:
        try:
            image = read_image(source) if isinstance(source, Path) else source
        except (DataError, OSError) as error:
            predicted.unread.append(error)
            continue
        read.append(name)
        yield image


def _confidences(outputs: Arrays, spec: IOSpec, classes: PrototypeHead | None) -> NDArray[np.float64]:
    """The probability of each class for each image, (images, classes)."""
    scores, meaning = outputs[spec.outputs[0].name], spec.outputs[0].meaning
    if classes is not None:
        scores, meaning = classes.logits(outputs[EMBEDDING]), LOGITS
    confidences: NDArray[np.float64] = probabilities(scores, meaning)
    return confidences


def _images(
    images: Sequence[Path | NDArray[np.uint8]], predicted: Predicted
) -> Iterator[tuple[str, Path | NDArray[np.uint8]]]:
    """The name of each image, and the image; of a folder, every image below it, sorted.

    Files that are passed over are noted in `predicted`.
    """
    for position, path in enumerate(images):
        if not isinstance(path, Path):
            yield str(position), path
            continue
        if not path.is_dir():
            yield str(path), path
            continue
        below = images_below(path)
        notes = [f"{printable_path(path)}: {note}" for note in passed_over_notes(below.passed_over, path)]
        predicted.notes.extend(notes)
        predicted.unread.extend(
            DataError(f"the folder cannot be listed: {error.strerror}", where=printable_path(error.filename))
            for error in below.unreadable
        )
        if not below.images and not below.unreadable:
            raise DataError(
                "no images in this folder",
                where=path,
                got="; ".join(notes) or None,
                expected=" ".join(sorted(image_suffixes())),
            )
        yield from ((str(file), file) for file in below.images)
