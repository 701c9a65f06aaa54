"""Statistics of predictions. Labels and predictions are class indices, (n,) int64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgevit.artifacts import Json

Z_95 = 1.959963984540054
BINS = 10  # of the calibration error
MOST_CONFUSIONS = 1000


class Share(NamedTuple):
    """A share of images, 0 to 1, with its 95% interval."""

    value: float
    low: float
    high: float


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
    """Recall and precision of each class, with Wilson's 95% intervals.

    Returns:
        For each class: `class`, its images `n`, the number of predictions `predicted`, `recall`, `recall_low`,
        `recall_high`, `precision`, `precision_low`, `precision_high`. None for the recall of no images, and for the
        precision of no predictions.
    """
    num_correct, num_labelled, num_predicted = _counts(labels, predicted, len(classes))
    return [
        {
            "class": name,
            "n": int(num_labelled[index]),
            "predicted": int(num_predicted[index]),
            **_with_interval("recall", int(num_correct[index]), int(num_labelled[index])),
            **_with_interval("precision", int(num_correct[index]), int(num_predicted[index])),
        }
        for index, name in enumerate(classes)
    ]


def balanced_accuracy(labels: NDArray[np.int64], predicted: NDArray[np.int64], num_classes: int) -> Share:
    """The mean recall of the classes that have images, with a 95% interval.

    The mean of K recalls has the variance Σ recall · (1 - recall) / n / K². The interval is Wilson's at the effective
    number of images (Korn and Graubard 1998): the number of independent images whose share has this variance. It is at
    most K² / Σ 1/n, its value for classes of equal recall: the variance of a class of few images is not well known.
    On a data set of equally large classes, the interval is that of top-1.

    Args:
        labels, predicted: (n,), n ≥ 1.
    """
    num_correct, num_labelled, _ = _counts(labels, predicted, num_classes)
    correct, images = num_correct[num_labelled > 0], num_labelled[num_labelled > 0]
    recalls = correct / images
    value = math.fsum(recalls.tolist()) / len(recalls)  # fsum: for equally large classes, exactly top-1
    variance = float((recalls * (1 - recalls) / images).sum()) / len(images) ** 2
    effective = len(images) ** 2 / float((1 / images).sum())
    if variance:
        effective = min(effective, value * (1 - value) / variance)
    return Share(value, *wilson_interval(value * effective, effective))


def macro_f1(labels: NDArray[np.int64], predicted: NDArray[np.int64], num_classes: int) -> float:
    """The mean F1 of the classes that have images: F1 = 2 · correct / (images + predictions) of the class."""
    num_correct, num_labelled, num_predicted = _counts(labels, predicted, num_classes)
    tested = num_labelled > 0
    return float((2 * num_correct[tested] / (num_labelled[tested] + num_predicted[tested])).mean())


def confusions(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: Sequence[str], most: int = MOST_CONFUSIONS
) -> list[Json]:
    """The most frequent confusions: label, predicted class, count, and the number of images with this label.

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
    ece = sum(row["n"] * abs(row["accuracy"] - row["confidence"]) for row in filled_bins) / len(correct)
    return {"ece": ece, "bins": filled_bins}


def _counts(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], num_classes: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Of each class, the number of correct predictions, of images and of predictions, (classes,) each."""
    correct, labelled, of_predictions = (
        np.bincount(indices, minlength=num_classes) for indices in (labels[labels == predicted], labels, predicted)
    )
    return correct, labelled, of_predictions


def _with_interval(name: str, part: int, whole: int) -> Json:
    """A share and its interval under the names NAME, NAME_low and NAME_high; None where `whole` is 0."""
    low, high = wilson_interval(part, whole) if whole else (None, None)
    return {name: part / whole if whole else None, f"{name}_low": low, f"{name}_high": high}
