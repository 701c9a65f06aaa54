"""Accuracy under corruption. Every model gets the same corrupted images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgevit.artifacts import Json
from edgevit.configs import Corruption
from edgevit.context import usable_cpus
from edgevit.data import Dataset
from edgevit.data.corruptions import COMMON_SHORT_SIDE, at_common_size, corrupt
from edgevit.evaluation.accuracy import mean_accuracy
from edgevit.evaluation.classify import Predictions, labels_for, predict_probabilities
from edgevit.evaluation.record import write_evaluation
from edgevit.progress import Progress
from edgevit.runtimes.base import Session

IMAGES_IN_MEMORY = 256
Condition: TypeAlias = tuple[Corruption, int] | None  # kind and severity; None for clean images


@dataclass(frozen=True)
class CorruptedPredictions:
    """A model's predictions on clean images, and whether its predictions on the corrupted images are correct.

    Attributes:
        clean: predictions on the clean images, at the common size.
        correct: (kinds, severities, n) bool.
    """

    clean: Predictions
    kinds: tuple[Corruption, ...]
    severities: tuple[int, ...]
    correct: NDArray[np.bool_]


def classify_corrupted(
    session: Session,
    dataset: Dataset,
    kinds: Sequence[Corruption],
    severities: Sequence[int],
    seed: int,
    batch_size: int,
    progress: Progress,
) -> CorruptedPredictions:
    """Predict every image of a data set, clean and under each kind of corruption at each severity.

    Images are first reduced to a common size (`at_common_size`) and corrupted there, before the model's own resizing.
    Random draws depend only on seed, kind, severity and sample id. So every model sees the same images.

    Raises:
        DataError: the data set is unlabelled or empty, or has a class that the model lacks.
    """
    labels = labels_for(session, dataset, progress)
    conditions: list[Condition] = [None, *((kind, severity) for kind in kinds for severity in severities)]
    batches: list[list[NDArray[np.float32]]] = [[] for _ in conditions]
    with (
        ThreadPoolExecutor(usable_cpus()) as pool,
        progress.bar("evaluate under corruption", len(dataset) * len(conditions), "images") as bar,
    ):
        for start in range(0, len(dataset), IMAGES_IN_MEMORY):
            positions = range(start, min(start + IMAGES_IN_MEMORY, len(dataset)))
            images = list(pool.map(lambda position: at_common_size(dataset.image(position)), positions))
            seeds = [f"{seed}/{dataset.sample_ids[position]}" for position in positions]
            for condition, condition_batches in zip(conditions, batches, strict=True):
                corrupted = _corrupted(pool, images, seeds, condition)
                for batch in predict_probabilities(session, corrupted, batch_size):
                    condition_batches.append(batch)
                    bar.advance(len(batch))
    scores = [np.concatenate(condition_batches) for condition_batches in batches]
    clean = Predictions(dataset.sample_ids, session.spec.classes, labels, scores[0])
    correct = np.array([condition_scores.argmax(-1) == labels for condition_scores in scores[1:]])
    return CorruptedPredictions(
        clean, tuple(kinds), tuple(severities), correct.reshape(len(kinds), len(severities), len(labels))
    )


def write_corrupted(predictions: CorruptedPredictions, dataset: Dataset, out: Path) -> Json:
    """Write the evaluation on clean images (`write_evaluation`) together with the accuracies under corruption.

    Returns the metrics of `write_evaluation`, and corrupted_top1 (mean over kinds and severities),
    corrupted_top1_by_kind, corrupted_top1_by_severity.
    """
    by_kind = dict(zip(predictions.kinds, predictions.correct, strict=True))
    by_severity = dict(zip(map(str, predictions.severities), predictions.correct.swapaxes(0, 1), strict=True))
    overall = mean_accuracy(predictions.correct.reshape(-1, predictions.correct.shape[-1]))
    table = {
        "kinds": {
            kind: {
                str(severity): mean_accuracy(correct[np.newaxis])
                for severity, correct in zip(predictions.severities, correct_of_kind, strict=True)
            }
            for kind, correct_of_kind in by_kind.items()
        },
        "by_kind": {kind: mean_accuracy(correct) for kind, correct in by_kind.items()},
        "by_severity": {severity: mean_accuracy(correct) for severity, correct in by_severity.items()},
        "mean": overall,
        "common_short_side": COMMON_SHORT_SIDE,
    }
    metrics = write_evaluation(predictions.clean, dataset, out, corruptions=table)
    return {
        **metrics,
        "corrupted_top1": overall,
        "corrupted_top1_by_kind": {kind: float(correct.mean()) for kind, correct in by_kind.items()},
        "corrupted_top1_by_severity": {severity: float(correct.mean()) for severity, correct in by_severity.items()},
    }


def _corrupted(
    pool: Executor, images: Sequence[NDArray[np.uint8]], seeds: Sequence[str], condition: Condition
) -> Iterable[NDArray[np.uint8]]:
    """The corrupted images, computed on all cores while the model already runs; unchanged if `condition` is None."""
    if condition is None:
        return images
    kind, severity = condition
    return pool.map(partial(_corrupt, kind, severity), images, seeds)


def _corrupt(kind: Corruption, severity: int, image: NDArray[np.uint8], seed: str) -> NDArray[np.uint8]:
    return corrupt(image, kind, severity, seed)
