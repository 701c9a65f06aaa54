"""Numbers about predictions. Labels and predictions are class indices, (n,) int64."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgevit.artifacts import Json

Z_95 = 1.959963984540054
BINS = 10
MOST_CONFUSIONS = 1000


def wilson_interval(correct: float, n: float) -> tuple[float, float]:
    """95% interval of a share of `n` independent trials (Wilson 1927)."""
    share, z2 = correct / n, Z_95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def mean_accuracy(correct: NDArray[np.bool_]) -> Json:
    """Share of right answers, {value, low, high, n}, where each of n images was asked about several times.

    The answers about one image hang together, so the 95% interval is Wilson's at the effective number of answers
    (Korn and Graubard 1998): that whose variance is that of the mean over images. Asked once, it is Wilson's own.

    Args:
        correct: (times, n), n ≥ 1.
    """
    n, value, variance = correct.shape[1], float(correct.mean()), float(correct.mean(0).var())
    effective = min(n * value * (1 - value) / variance, correct.size) if variance else n
    low, high = wilson_interval(value * effective, effective)
    return {"value": value, "low": low, "high": high, "n": n}


def confusion_matrix(labels: NDArray[np.int64], predicted: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    """How often class `row` was taken for class `column`, (classes, classes)."""
    pairs = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return pairs.reshape(num_classes, num_classes).astype(np.int64)


def per_class(labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: Sequence[str]) -> list[Json]:
    """Recall and precision of each class; None where it has no image, or was never predicted."""
    correct, labelled, answered = (
        np.bincount(indices, minlength=len(classes)) for indices in (labels[labels == predicted], labels, predicted)
    )
    return [
        {
            "class": name,
            "n": int(labelled[index]),
            "recall": _share(correct[index], labelled[index]),
            "precision": _share(correct[index], answered[index]),
        }
        for index, name in enumerate(classes)
    ]


def confusions(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: Sequence[str], most: int = MOST_CONFUSIONS
) -> list[Json]:
    """The most frequent mistakes: label, predicted class, how often, and the label's number of images.

    No matrix is made: of thousands of classes it would be large, and nearly empty.
    """
    wrong, images = labels != predicted, np.bincount(labels, minlength=len(classes))
    pairs, counts = np.unique(labels[wrong] * len(classes) + predicted[wrong], return_counts=True)
    found = []
    for index in np.argsort(-counts, kind="stable")[:most].tolist():
        label, answer = divmod(int(pairs[index]), len(classes))
        count, of = int(counts[index]), int(images[label])
        found.append({"label": classes[label], "predicted": classes[answer], "count": count, "of": of})
    return found


def calibration_error(confidence: NDArray[np.float32], correct: NDArray[np.bool_], bins: int = BINS) -> Json:
    """Expected calibration error, Σ n_b/n · |accuracy_b - confidence_b| over bins of equal width (Guo et al. 2017)."""
    edges = np.linspace(0, 1, bins + 1)
    index = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    found = [
        {
            "low": float(edges[one]),
            "high": float(edges[one + 1]),
            "n": int(inside.sum()),
            "confidence": float(confidence[inside].mean()),
            "accuracy": float(correct[inside].mean()),
        }
        for one in range(bins)
        if (inside := index == one).any()
    ]
    ece = sum(one["n"] * abs(one["accuracy"] - one["confidence"]) for one in found) / len(correct)
    return {"ece": ece, "bins": found}


def _share(part: np.int64, whole: np.int64) -> float | None:
    return float(part / whole) if whole else None
