"""Labels from a teacher: temperature calibration of its confidence, and selection of its most confident labels."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from edgevit.data.dataset import Dataset, Indices, Labels
from edgevit.data.labels import labels_among, lacks_classes
from edgevit.errors import DataError
from edgevit.inference.frozen_model import fast_forward
from edgevit.inference.over_dataset import outputs_of
from edgevit.models.creation import BuiltModel
from edgevit.progress import Progress

Floats = NDArray[np.float64]

COLDEST, HOTTEST = 1e-3, 1e3  # search range of the temperature
BISECTIONS = 60


@dataclass(frozen=True, eq=False)
class TeacherLabels:
    """A teacher's label for each sample: labels (n,), indices into its classes, and confidence (n,)."""

    classes: tuple[str, ...]
    sample_ids: tuple[str, ...]
    labels: Labels
    confidence: Floats


@dataclass(frozen=True, eq=False)
class Calibration:
    """The temperature fitted on labelled images, and the confidence (n,) of each image without it and with it."""

    temperature: float
    correct: NDArray[np.bool_]
    confidence_before: Floats
    confidence: Floats


def calibrate(teacher: BuiltModel, dataset: Dataset, device: torch.device, progress: Progress) -> Calibration:
    """Fit the temperature of a teacher on labelled images that it was not trained on.

    If the teacher is right about every image, there is no best temperature, and it stays 1.

    Raises:
        DataError: the data set has no labels, or has classes that the teacher lacks.
    """
    labels = _calibration_labels(teacher.classes, dataset)
    logits = logits_of(teacher, dataset, device, progress)
    temperature = fitted_temperature(logits, labels)
    before, after = (softmax(logits, t).max(-1) for t in (1.0, temperature))
    return Calibration(temperature, logits.argmax(-1) == labels, before, after)


def teacher_labels(
    teacher: BuiltModel, dataset: Dataset, temperature: float, device: torch.device, progress: Progress
) -> TeacherLabels:
    """The teacher's label and confidence for each sample. The data set's own labels are not used."""
    logits = logits_of(teacher, dataset, device, progress)
    confidence = softmax(logits, temperature).max(-1)
    return TeacherLabels(teacher.classes, dataset.sample_ids, logits.argmax(-1), confidence)


def most_confident(
    labelled: TeacherLabels, threshold: float, balance: bool = False, most_per_class: int | None = None
) -> Indices:
    """Positions, in order, of the samples whose labels are kept.

    Args:
        threshold: least confidence.
        balance: no class keeps more than the median class does (of an even number, the lower one; classes that get
            no sample do not count).
        most_per_class: no class keeps more than this number of samples; the most confident samples are kept.

    Raises:
        DataError: no confidence reaches the threshold.
    """
    sure = np.flatnonzero(labelled.confidence >= threshold)
    if not len(sure):
        raise _no_confident_label(labelled, threshold)
    labels = labelled.labels[sure]
    counts = np.bincount(labels, minlength=len(labelled.classes))
    limits = [len(sure) if most_per_class is None else most_per_class]
    if balance:
        present = np.sort(counts[counts > 0])
        limits.append(int(present[(len(present) - 1) // 2]))
    by_class = np.lexsort((-labelled.confidence[sure], labels))  # the most confident samples of each class first
    rank_in_class = np.arange(len(sure)) - (np.cumsum(counts) - counts)[labels[by_class]]
    return np.sort(sure[by_class[rank_in_class < min(limits)]])


def fitted_temperature(logits: Floats, labels: Labels) -> float:
    """The T > 0 with the least mean negative log-likelihood of softmax(logits / T). Guo et al. 2017, section 4.2.

    NLL is convex in β = 1/T, and its slope, mean(Σ p·z - z_label), rises with β: T is found by bisection, between
    1e-3 and 1e3. If every label has the largest logit, the slope is below 0 everywhere: there is no best T, and 1 is
    returned.

    Args:
        logits: (n, classes).
        labels: (n,) indices into the classes.
    """
    of_label = logits[np.arange(len(labels)), labels]
    if np.array_equal(of_label, logits.max(-1)):
        return 1.0
    low, high = np.log(COLDEST), np.log(HOTTEST)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        expected = (softmax(logits, np.exp(middle)) * logits).sum(-1)
        if (expected - of_label).mean() > 0:  # overconfident: raise T
            low = middle
        else:
            high = middle
    return float(np.exp((low + high) / 2))


def softmax(logits: Floats, temperature: float) -> Floats:
    """Probabilities (n, classes) of logits / temperature."""
    scaled = torch.from_numpy(logits) / temperature
    probabilities: Floats = scaled.softmax(-1).numpy()
    return probabilities


def logits_of(teacher: BuiltModel, dataset: Dataset, device: torch.device, progress: Progress) -> Floats:
    """The teacher's logits (samples, teacher's classes). Raises DataError if a logit is not finite."""
    preprocess = teacher.preprocess
    with progress.bar(f"ask about {dataset.name}", len(dataset), "images") as bar:
        forward = fast_forward(teacher.module, preprocess, device, len(dataset))
        logits = outputs_of(forward, dataset, preprocess, device, bar=bar).double()
    if not logits.isfinite().all():
        raise DataError("the teacher's logits are not all finite", where=dataset.name, next="train the teacher again")
    return logits.numpy()


def write_teacher_labels(labelled: TeacherLabels, kept: Indices, file: Path) -> None:
    """Write a CSV file with a line per sample: id, class, confidence, and whether the label was kept."""
    chosen = np.isin(np.arange(len(labelled.labels)), kept)
    with file.open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(("sample_id", "class", "confidence", "kept"))
        for sample_id, label, confidence, is_kept in zip(
            labelled.sample_ids, labelled.labels, labelled.confidence, chosen, strict=True
        ):
            table.writerow((sample_id, labelled.classes[label], f"{confidence:.4f}", "yes" if is_kept else "no"))


def _calibration_labels(classes: tuple[str, ...], dataset: Dataset) -> Labels:
    """The data set's labels as indices into the teacher's classes, matched by name."""
    if dataset.labels is None:
        raise DataError(
            "calibration needs labelled images", where=dataset.name, next="name a role that has labels, such as val"
        )
    labels = labels_among(dataset, classes)
    if labels is None:
        advice = "calibrate on a data set of the teacher's classes, or name them in its include_classes"
        raise lacks_classes("the teacher", dataset.classes, classes, dataset.name, advice)
    return labels


def _no_confident_label(labelled: TeacherLabels, threshold: float) -> DataError:
    lower = [(level, int((labelled.confidence >= level).sum())) for level in np.arange(9, 0, -1) / 10]
    counts = [f"{count} at ≥ {level:g}" for level, count in lower if count and level < threshold]
    return DataError(
        f"the teacher is sure of none of the {len(labelled.labels)} images",
        got=f"highest confidence {labelled.confidence.max():.3f}" + (f"; {', '.join(counts[:3])}" if counts else ""),
        expected=f"at least {threshold:g}",
        next="lower the threshold, or adapt the teacher to these images first",
    )
