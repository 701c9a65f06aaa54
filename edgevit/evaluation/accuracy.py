"""Statistics of predictions. Labels and predictions are class indices, (n,) int64."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgevit.artifacts import Json

Z_95 = 1.959963984540054
BINS = 10  # of the calibration error
MOST_CONFUSIONS = 1000


def wilson_interval(correct: float, n: float) -> tuple[float, float]:
    """95% interval of a share of `n` independent trials (Wilson 1927)."""
    share, z2 = correct / n, Z_95**2
    center = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, center - half), min(1.0, center + half)


def mean_accuracy(correct: NDArray[np.bool_]) -> Json:
    """Accuracy {value, low, high, n} over several predictions for each of n images, with a 95% interval.

    Predictions for one image are correlated, so the interval is Wilson's at the effective number of predictions (Korn
    and Graubard 1998): the number of independent predictions whose mean has the variance of the mean over images. With
    a single prediction per image, it is Wilson's interval.

    Args:
        correct: (predictions, n), n ≥ 1.
    """
    n, value, variance = correct.shape[1], float(correct.mean()), float(correct.mean(0).var())
    effective = min(n * value * (1 - value) / variance, correct.size) if variance else n
    low, high = wilson_interval(value * effective, effective)
    return {"value": value, "low": low, "high": high, "n": n}


def confusion_matrix(labels: NDArray[np.int64], predicted: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    """The number of images of class `row` that were predicted as class `column`, (classes, classes) int64."""
    pairs = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return pairs.reshape(num_classes, num_classes).astype(np.int64)


def per_class(labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: Sequence[str]) -> list[Json]:
    """Recall and precision of each class; None for the recall of no images, and for the precision of no predictions."""
    num_correct, num_labelled, num_predicted = (
        np.bincount(indices, minlength=len(classes)) for indices in (labels[labels == predicted], labels, predicted)
    )
    return [
        {
            "class": name,
            "n": int(num_labelled[index]),
            "recall": _share(num_correct[index], num_labelled[index]),
            "precision": _share(num_correct[index], num_predicted[index]),
        }
        for index, name in enumerate(classes)
    ]


def confusions(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: Sequence[str], most: int = MOST_CONFUSIONS
) -> list[Json]:
    """The most frequent mistakes: label, predicted class, count, and the number of images with this label.

    No confusion matrix is built: for thousands of classes it would be large and nearly empty.
    """
    wrong, images = labels != predicted, np.bincount(labels, minlength=len(classes))
    pairs, counts = np.unique(labels[wrong] * len(classes) + predicted[wrong], return_counts=True)
    mistakes = []
    for index in np.argsort(-counts, kind="stable")[:most].tolist():
        label, prediction = divmod(int(pairs[index]), len(classes))
        count, of = int(counts[index]), int(images[label])
        mistakes.append({"label": classes[label], "predicted": classes[prediction], "count": count, "of": of})
    return mistakes


def calibration_error(confidence: NDArray[np.float32], correct: NDArray[np.bool_], bins: int = BINS) -> Json:
    """Expected calibration error, Σ n_b/n · |accuracy_b - confidence_b| over bins of equal width (Guo et al. 2017)."""
    edges = np.linspace(0, 1, bins + 1)
    bin_of_image = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    filled_bins = [
        {
            "low": float(edges[index]),
            "high": float(edges[index + 1]),
            "n": int(inside.sum()),
            "confidence": float(confidence[inside].mean()),
            "accuracy": float(correct[inside].mean()),
        }
        for index in range(bins)
        if (inside := bin_of_image == index).any()
    ]
    ece = sum(each["n"] * abs(each["accuracy"] - each["confidence"]) for each in filled_bins) / len(correct)
    return {"ece": ece, "bins": filled_bins}


def _share(part: np.int64, whole: np.int64) -> float | None:
    return float(part / whole) if whole else None
