"""Accuracy by the number of labelled images per class, measured within a support set and extrapolated to more images.

The extrapolation uses the power law error = a · shots^-b with b ≥ 0, fitted by least squares to the logarithms.
Learning curves follow a power law over wide ranges (Hestness et al. 2017). If some images cannot be classified at all,
errors fall more slowly than the law predicts.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgevit.data.dataset import Labels
from edgevit.evaluation.accuracy import wilson_interval
from edgevit.fewshot.heads import Floats, class_directions, unit

DRAWS = 20  # random draws of training images for each number of shots
MOST_POINTS = 6
FEWEST_POINTS = 3  # for a fit of the law
FURTHER_SHOTS = 5
REPLICATES = 500  # bootstrap samples
LAW = "error = a · shots^-b"


class Estimate(NamedTuple):
    """An accuracy, or a difference of accuracies, with its 95% interval."""

    value: float
    low: float
    high: float


class Point(NamedTuple):
    """The accuracy on held-out images after training on `shots` images of each class."""

    shots: int
    accuracy: Estimate


class Outlook(NamedTuple):
    """The extrapolated accuracy with `shots` images per class, `FURTHER_SHOTS` more than now.

    Attributes:
        now: the accuracy that the law gives for the present number of images.
        gain: the difference of `accuracy` and `now`.
    """

    shots: int
    accuracy: Estimate
    now: Estimate
    gain: Estimate

    @property
    def helps(self) -> bool:
        """Whether the interval of the gain lies above 0."""
        return self.gain.low > 0


class LearningCurve(NamedTuple):
    """The measured points, from few to many shots, and the extrapolation; None if it is not possible."""

    points: tuple[Point, ...]
    outlook: Outlook | None


class _Trials(NamedTuple):
    """For each number of shots, draw and sample: whether it was held out, and whether it was then misclassified.

    Both arrays are (shots, draws, samples).
    """

    held_out: npt.NDArray[np.bool_]
    wrong: npt.NDArray[np.bool_]


def learning_curve(features: Floats, labels: Labels, num_classes: int, center: Floats, seed: int = 0) -> LearningCurve:
    """The learning curve of the nearest centroid on features (samples, dimensions).

    The largest number of shots is one less than the size of the smallest class. The classifier is the nearest centroid
    because it is fitted hundreds of times. The intervals of the points are Wilson's, with each image counted once. The
    interval of the outlook is from a bootstrap over both the draws and the images of each class: the draws share the
    same images, so a bootstrap over draws alone would give too narrow an interval.

    Args:
        center: (dimensions,), the center of the features.

    Returns:
        The curve, without an outlook if there are fewer than FEWEST_POINTS points, or no mistakes at the most shots.
    """
    smallest = int(np.bincount(labels, minlength=num_classes).min())
    shots = _shots_to_measure(smallest - 1)
    if not shots:
        return LearningCurve((), None)
    trials = _trials(_in_their_span(unit(features - center)), labels, num_classes, shots, seed)
    accuracies = 1 - trials.wrong.sum((1, 2)) / trials.held_out.sum((1, 2))
    points = tuple(
        Point(k, Estimate(accuracy, *wilson_interval(accuracy * len(labels), len(labels))))
        for k, accuracy in zip(shots, accuracies.tolist(), strict=True)
    )
    if len(shots) < FEWEST_POINTS or not trials.wrong[-1].any():
        return LearningCurve(points, None)
    return LearningCurve(points, _outlook(shots, trials, labels, smallest, seed))


def law_at(shots: npt.ArrayLike, errors: Floats, at: int) -> Floats:
    """Fit the law to errors (…, points) at these shots, and return its error at another number of shots, (…)."""
    x = np.log(np.asarray(shots, np.float64))
    y = np.log(errors)
    slope = np.minimum(0, ((y - y.mean(-1, keepdims=True)) * (x - x.mean())).sum(-1) / ((x - x.mean()) ** 2).sum())
    predicted: Floats = np.minimum(1, np.exp(y.mean(-1) + slope * (np.log(at) - x.mean())))
    return predicted


def _shots_to_measure(most: int) -> list[int]:
    """At most MOST_POINTS numbers of shots from 1 to `most`, in a geometric sequence."""
    if most < 1:
        return []
    return sorted({round(k) for k in np.geomspace(1, most, min(most, MOST_POINTS)).tolist()} | {1, most})


def _in_their_span(features: Floats) -> Floats:
    """The samples in coordinates of the space they span: fewer dimensions with the same inner products."""
    if len(features) >= features.shape[1]:
        return features
    coordinates: Floats = np.linalg.qr(features.T).R.T
    return coordinates


def _trials(directions: Floats, labels: Labels, num_classes: int, shots: list[int], seed: int) -> _Trials:
    shape = (len(shots), DRAWS, len(labels))
    held_out, wrong = np.ones(shape, bool), np.zeros(shape, bool)
    for draw in range(DRAWS):
        order = np.random.default_rng([seed, draw]).permutation(len(labels))
        rank = np.empty(len(labels), np.int64)  # of each sample within its class
        for label in range(num_classes):
            members = order[labels[order] == label]
            rank[members] = np.arange(len(members))
        for row, k in enumerate(shots):
            in_training = rank < k
            centroids = class_directions(directions[in_training], labels[in_training], num_classes)
            held_out[row, draw, in_training] = False
            wrong[row, draw] = ~in_training & ((directions @ centroids.T).argmax(1) != labels)
    return _Trials(held_out, wrong)


def _errors(trials: _Trials, draw_weights: Floats, image_weights: Floats) -> Floats:
    """The share of wrong predictions, (replicates, shots); never 0, since half an image is added to both outcomes.

    Args:
        draw_weights: (replicates, draws).
        image_weights: (replicates, samples).
    """

    def weighted_sum(counts: npt.NDArray[np.bool_]) -> Floats:
        over_draws = np.tensordot(draw_weights, counts.astype(np.float64), axes=(1, 1))
        total: Floats = (over_draws * image_weights[:, None]).sum(-1)
        return total

    images = image_weights.shape[1]
    errors: Floats = (images * weighted_sum(trials.wrong) / weighted_sum(trials.held_out) + 0.5) / (images + 1)
    return errors


def _draw_weights(rng: np.random.Generator) -> Floats:
    """Bootstrap weights of the draws, (replicates, draws)."""
    return rng.multinomial(DRAWS, np.full(DRAWS, 1 / DRAWS), REPLICATES).astype(np.float64)


def _image_weights(labels: Labels, rng: np.random.Generator) -> Floats:
    """Bootstrap weights of the images, (replicates, samples). Each class keeps its number of images."""
    weights = np.zeros((REPLICATES, len(labels)))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        weights[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), REPLICATES)
    return weights


def _outlook(shots: list[int], trials: _Trials, labels: Labels, present_shots: int, seed: int) -> Outlook:
    rng = np.random.default_rng([seed, len(labels)])
    errors = _errors(trials, np.ones((1, DRAWS)), np.ones((1, len(labels))))[0]
    resampled = _errors(trials, _draw_weights(rng), _image_weights(labels, rng))
    more_shots = present_shots + FURTHER_SHOTS
    now, then = (float(1 - law_at(shots, errors, at)) for at in (present_shots, more_shots))
    now_resampled, then_resampled = (1 - law_at(shots, resampled, at) for at in (present_shots, more_shots))
    return Outlook(
        more_shots,
        Estimate(then, *_interval(then_resampled)),
        Estimate(now, *_interval(now_resampled)),
        Estimate(then - now, *_interval(then_resampled - now_resampled)),
    )


def _interval(values: Floats) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975]).tolist()
    return low, high
