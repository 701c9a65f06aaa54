"""Accuracy by the number of labelled images a class, measured inside a support set, and what more of them would bring.

The law is error = a · shots^-b with b ≥ 0, fitted by least squares to the logarithms (a power law, as learning curves
follow it over wide ranges: Hestness et al. 2017). Where images cannot be told apart at all, errors fall more slowly
than it says.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgevit.data.dataset import Labels
from edgevit.evaluation.accuracy import wilson_interval
from edgevit.fewshot.heads import Floats, class_directions, unit

DRAWS = 20  # of the images to learn from, for each number of shots
MOST_POINTS = 6
FEWEST_POINTS = 3  # for the law
FURTHER_SHOTS = 5
REPLICATES = 500  # of the bootstrap
LAW = "error = a · shots^-b"


class Estimate(NamedTuple):
    """A share of images with its 95% interval."""

    value: float
    low: float
    high: float


class Point(NamedTuple):
    """Accuracy on images held out, learned from so many of each class."""

    shots: int
    accuracy: Estimate


class Outlook(NamedTuple):
    """What the law says of `shots` images a class, `FURTHER_SHOTS` more than there are, and of those there are."""

    shots: int
    accuracy: Estimate
    now: Estimate
    gain: Estimate


class LearningCurve(NamedTuple):
    """What was measured, from few to many shots, and what follows from it."""

    points: tuple[Point, ...]
    outlook: Outlook | None


class _Answers(NamedTuple):
    """Of each number of shots, draw and sample: whether it was held out, and then answered wrongly."""

    held_out: npt.NDArray[np.bool_]
    wrong: npt.NDArray[np.bool_]


def learning_curve(features: Floats, labels: Labels, num_classes: int, centre: Floats, seed: int = 0) -> LearningCurve:
    """The curve of the nearest centroid on features (samples, dimensions), up to one less than the smallest class has.

    The nearest centroid, since it is fitted hundreds of times here. Intervals of what was measured are Wilson's, for
    each image counted once; that of the outlook is of a bootstrap over draws and over the images of each class at once,
    since the same images are held out again and again: draws alone would promise too much.

    Args:
        centre: (dimensions,) what features are taken relative to.

    Returns:
        No outlook where there are fewer than FEWEST_POINTS points, or no mistake with the most shots.
    """
    smallest = int(np.bincount(labels, minlength=num_classes).min())
    shots = _spread(smallest - 1)
    if not shots:
        return LearningCurve((), None)
    answers = _answers(_in_their_span(unit(features - centre)), labels, num_classes, shots, seed)
    accuracies = 1 - answers.wrong.sum((1, 2)) / answers.held_out.sum((1, 2))
    points = tuple(
        Point(k, Estimate(one, *wilson_interval(one * len(labels), len(labels))))
        for k, one in zip(shots, accuracies.tolist(), strict=True)
    )
    if len(shots) < FEWEST_POINTS or not answers.wrong[-1].any():
        return LearningCurve(points, None)
    return LearningCurve(points, _outlook(shots, answers, labels, smallest, seed))


def law_at(shots: npt.ArrayLike, errors: Floats, at: int) -> Floats:
    """The error that the law fitted to errors (…, points) at these shots has at another number, (…)."""
    x = np.log(np.asarray(shots, np.float64))
    y = np.log(errors)
    slope = np.minimum(0, ((y - y.mean(-1, keepdims=True)) * (x - x.mean())).sum(-1) / ((x - x.mean()) ** 2).sum())
    predicted: Floats = np.minimum(1, np.exp(y.mean(-1) + slope * (np.log(at) - x.mean())))
    return predicted


def _spread(most: int) -> list[int]:
    """At most MOST_POINTS numbers from 1 to `most`, by equal factors."""
    if most < 1:
        return []
    return sorted({round(k) for k in np.geomspace(1, most, min(most, MOST_POINTS)).tolist()} | {1, most})


def _in_their_span(features: Floats) -> Floats:
    """The same samples in coordinates of the space they span: all products between them stay, far fewer dimensions."""
    if len(features) >= features.shape[1]:
        return features
    coordinates: Floats = np.linalg.qr(features.T).R.T
    return coordinates


def _answers(directions: Floats, labels: Labels, num_classes: int, shots: list[int], seed: int) -> _Answers:
    shape = (len(shots), DRAWS, len(labels))
    held_out, wrong = np.ones(shape, bool), np.zeros(shape, bool)
    for draw in range(DRAWS):
        order = np.random.default_rng([seed, draw]).permutation(len(labels))
        place = np.empty(len(labels), np.int64)  # of each sample among its class
        for label in range(num_classes):
            members = order[labels[order] == label]
            place[members] = np.arange(len(members))
        for row, k in enumerate(shots):
            learned = place < k
            centroids = class_directions(directions[learned], labels[learned], num_classes)
            held_out[row, draw, learned] = False
            wrong[row, draw] = ~learned & ((directions @ centroids.T).argmax(1) != labels)
    return _Answers(held_out, wrong)


def _errors(answers: _Answers, draw_weights: Floats, image_weights: Floats) -> Floats:
    """The share of wrong answers, (replicates, shots), never 0: half an image more is wrong, half of one more right.

    Args:
        draw_weights: (replicates, draws).
        image_weights: (replicates, samples).
    """

    def weighed(counts: npt.NDArray[np.bool_]) -> Floats:
        over_draws = np.tensordot(draw_weights, counts.astype(np.float64), axes=(1, 1))
        total: Floats = (over_draws * image_weights[:, None]).sum(-1)
        return total

    images = image_weights.shape[1]
    errors: Floats = (images * weighed(answers.wrong) / weighed(answers.held_out) + 0.5) / (images + 1)
    return errors


def _draw_weights(rng: np.random.Generator) -> Floats:
    return rng.multinomial(DRAWS, np.full(DRAWS, 1 / DRAWS), REPLICATES).astype(np.float64)


def _image_weights(labels: Labels, rng: np.random.Generator) -> Floats:
    """Each class keeps its number of images."""
    weights = np.zeros((REPLICATES, len(labels)))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        weights[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), REPLICATES)
    return weights


def _outlook(shots: list[int], answers: _Answers, labels: Labels, there_are: int, seed: int) -> Outlook:
    rng = np.random.default_rng([seed, len(labels)])
    errors = _errors(answers, np.ones((1, DRAWS)), np.ones((1, len(labels))))[0]
    resampled = _errors(answers, _draw_weights(rng), _image_weights(labels, rng))
    aim = there_are + FURTHER_SHOTS
    now, then = (float(1 - law_at(shots, errors, at)) for at in (there_are, aim))
    nows, thens = (1 - law_at(shots, resampled, at) for at in (there_are, aim))
    return Outlook(
        aim,
        Estimate(then, *_interval(thens)),
        Estimate(now, *_interval(nows)),
        Estimate(then - now, *_interval(thens - nows)),
    )


def _interval(values: Floats) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975]).tolist()
    return low, high
