"""Labels for images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgevit.artifacts import EMBEDDING, Artifact
from edgevit.bundling.prototypes import PrototypeHead, SupportSet
from edgevit.data.images import read_image
from edgevit.data.preprocess import image_suffixes, images_below, passed_over_notes, printable_path
from edgevit.errors import DataError
from edgevit.evaluation.classify import non_finite_scores
from edgevit.graphs.class_scores import LOGITS, probabilities
from edgevit.runtimes.base import Session, SessionOptions
from edgevit.targets.local import LocalCpu


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
) -> Predicted:
    """Label each image; folders give the images below them, sorted.

    Args:
        images: files, folders, or RGB arrays (H, W, 3), which are called by their position.
        classes: a classifier that answers in place of the model's own.
    """
    spec = model.io
    names = classes[0].classes if classes else spec.classes
    predicted = Predicted([], [], [])
    with LocalCpu().open(model, SessionOptions()) as session:
        for name, source in list(_images(images, predicted)):
            try:
                image = read_image(source) if isinstance(source, Path) else source
            except (DataError, OSError) as error:
                predicted.unread.append(error)
                continue
            confidence = _confidence(image, session, classes[1] if classes else None)
            if not np.isfinite(confidence).all():
                raise non_finite_scores(name)
            best = np.argsort(-confidence, kind="stable")[:top]
            labels = [{"label": names[i], "confidence": round(float(confidence[i]), 4)} for i in best]
            predicted.answers.append({"image": name, "labels": labels})
    return predicted


def _confidence(image: NDArray[np.uint8], session: Session, classes: PrototypeHead | None) -> NDArray[np.float64]:
    """The probability of each class, (classes,)."""
    spec = session.spec
    (outputs,) = session.outputs([image], batch_size=1)
    scores, meaning = outputs[spec.outputs[0].name], spec.outputs[0].meaning
    if classes is not None:
        scores, meaning = classes.logits(outputs[EMBEDDING]), LOGITS
    confidence: NDArray[np.float64] = probabilities(scores, meaning)[0]
    return confidence


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
