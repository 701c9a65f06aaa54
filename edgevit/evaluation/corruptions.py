"""Accuracy under corruption: the same pictures, hurt alike for every model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgevit.artifacts import Json
from edgevit.configs import Corruption
from edgevit.context import usable_cpus
from edgevit.data import Dataset
from edgevit.data.corruptions import COMMON_SHORT_SIDE, at_common_size, corrupt
from edgevit.evaluation.accuracy import mean_accuracy
from edgevit.evaluation.classify import Predictions, labels_for, probabilities
from edgevit.evaluation.record import write_evaluation
from edgevit.progress import Progress
from edgevit.runtimes.base import Session

PICTURES_IN_MEMORY = 256


@dataclass(frozen=True)
class CorruptedPredictions:
    """What a model said about images as they are and about the same images hurt.

    Attributes:
        clean: of the images as they are, at the common size.
        correct: whether each hurt image was labelled rightly, (kinds, severities, n) bool.
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
    """Run a model over every image of a data set, as it is and under each kind of corruption at each severity.

    Pictures are first brought to a common size (`at_common_size`) and hurt there, before the model's own resizing;
    what is drawn at random depends on seed, kind, severity and sample id alone. So every model sees the same pictures.

    Raises:
        DataError: the data set is unlabelled or empty, or has a class that the model lacks.
    """
    labels = labels_for(session, dataset, progress)
    ways: list[tuple[Corruption, int] | None] = [None, *((kind, severity) for kind in kinds for severity in severities)]
    found: list[list[NDArray[np.float32]]] = [[] for _ in ways]
    with (
        ThreadPoolExecutor(usable_cpus()) as pool,
        progress.bar("evaluate under corruption", len(dataset) * len(ways), "images") as bar,
    ):
        for start in range(0, len(dataset), PICTURES_IN_MEMORY):
            positions = range(start, min(start + PICTURES_IN_MEMORY, len(dataset)))
            pictures = list(pool.map(lambda position: at_common_size(dataset.image(position)), positions))
            seeds = [f"{seed}/{dataset.sample_ids[position]}" for position in positions]
            for way, parts in zip(ways, found, strict=True):
                for part in probabilities(session, _hurt(pool, pictures, seeds, way), batch_size):
                    parts.append(part)
                    bar.advance(len(part))
    answers = [np.concatenate(parts) for parts in found]
    clean = Predictions(dataset.sample_ids, session.spec.classes, labels, answers[0])
    correct = np.array([one.argmax(-1) == labels for one in answers[1:]])
    return CorruptedPredictions(
        clean, tuple(kinds), tuple(severities), correct.reshape(len(kinds), len(severities), len(labels))
    )


def write_corrupted(found: CorruptedPredictions, dataset: Dataset, out: Path) -> Json:
    """Write what `write_evaluation` does of the clean images, and the accuracies under corruption beside it.

    Gives {top1, images, corrupted_top1 (mean over kinds and severities), corrupted_top1_by_kind,
    corrupted_top1_by_severity}.
    """
    by_kind = dict(zip(found.kinds, found.correct, strict=True))
    by_severity = dict(zip(map(str, found.severities), found.correct.swapaxes(0, 1), strict=True))
    everything = mean_accuracy(found.correct.reshape(-1, found.correct.shape[-1]))
    table = {
        "kinds": {
            kind: {
                str(severity): mean_accuracy(one[np.newaxis])
                for severity, one in zip(found.severities, correct, strict=True)
            }
            for kind, correct in by_kind.items()
        },
        "by_kind": {kind: mean_accuracy(correct) for kind, correct in by_kind.items()},
        "by_severity": {severity: mean_accuracy(correct) for severity, correct in by_severity.items()},
        "mean": everything,
        "common_short_side": COMMON_SHORT_SIDE,
    }
    metrics = write_evaluation(found.clean, dataset, out, corruptions=table)
    return {
        **metrics,
        "corrupted_top1": everything,
        "corrupted_top1_by_kind": {kind: float(correct.mean()) for kind, correct in by_kind.items()},
        "corrupted_top1_by_severity": {severity: float(correct.mean()) for severity, correct in by_severity.items()},
    }


def _hurt(
    pool: Executor, pictures: Sequence[NDArray[np.uint8]], seeds: Sequence[str], way: tuple[Corruption, int] | None
) -> Iterable[NDArray[np.uint8]]:
    """The pictures hurt on all cores while a model looks at the first of them; as they are where `way` is None."""
    if way is None:
        return pictures
    kind, severity = way
    return pool.map(partial(_corrupt, kind, severity), pictures, seeds)


def _corrupt(kind: Corruption, severity: int, picture: NDArray[np.uint8], seed: str) -> NDArray[np.uint8]:
    return corrupt(picture, kind, severity, seed)
