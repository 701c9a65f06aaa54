"""Classifiers made from a handful of labelled features.

Features are (samples, dimensions) float64; labels (samples,) in 0..num_classes-1, every class at least once. `centre`
(dimensions,) is what all features are taken relative to. Nothing here draws at random.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression

from edgevit.models.knn_classifier import LEAST_SHARE

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

SCALES = np.geomspace(1, 100, 41)  # tried for the logits of a head that has no likelihood of its own
PENALTIES = np.geomspace(1e-3, 1e3, 25)  # tried by ridge
NEIGHBOURS = (1, 3, 5, 9)  # tried by k_nearest_neighbours


@dataclass(frozen=True)
class LinearHead:
    """logits = features @ weight.T + bias; weight (classes, dimensions), bias (classes,)."""

    weight: Floats
    bias: Floats

    def logits(self, features: Floats) -> Floats:
        """(samples, classes)."""
        logits: Floats = features @ self.weight.T + self.bias
        return logits


@dataclass(frozen=True)
class NeighbourHead:
    """Votes of the `k` support samples nearest by cosine; a vote weighs exp(scale · cosine).

    Attributes:
        directions: (support samples, dimensions), unit vectors from `centre`.
        labels: their classes.
    """

    directions: Floats
    labels: Labels
    num_classes: int
    centre: Floats
    k: int
    scale: float

    def logits(self, features: Floats) -> Floats:
        """Logarithm of each class's share of the votes, (samples, classes)."""
        cosines = unit(features - self.centre) @ self.directions.T
        return _votes(cosines, self.labels, self.num_classes, self.k, self.scale)


Head = LinearHead | NeighbourHead


def nearest_centroid(features: Floats, labels: Labels, num_classes: int, centre: Floats) -> LinearHead:
    """The class whose mean direction from `centre` is nearest by cosine (SimpleShot, Wang et al. 2019).

    A sample's own length does not change which class wins, so a linear layer gives the same answers. The scale of the
    logits is the one under which each support sample is most likely, given the centroids of the others.
    """
    directions = unit(features - centre)
    centroids = class_directions(directions, labels, num_classes)
    scale = likeliest_scale(left_out_cosines(directions, labels, centroids), labels) / mean_length(features - centre)
    return LinearHead(scale * centroids, -scale * centroids @ centre)


def ridge(features: Floats, labels: Labels, num_classes: int, centre: Floats) -> LinearHead:
    """Least squares on targets ±1 with an L2 penalty, on features centred and scaled to a mean length of 1.

    The penalty is that of the least squared error over samples left out, in closed form (Allen 1974, PRESS); the scale
    of the logits the one under which these samples are most likely.
    """
    length = mean_length(features - centre)
    samples = (features - centre) / length
    mean = samples.mean(0)
    targets = 2.0 * one_hot(labels, num_classes) - 1
    values, vectors = np.linalg.eigh((samples - mean) @ (samples - mean).T)
    values = np.maximum(values, 0)
    best_error, penalty, left_out = np.inf, 0.0, targets
    for candidate in PENALTIES:
        hat = (vectors * (values / (values + candidate))) @ vectors.T + 1 / len(samples)
        leverage = np.minimum(np.diag(hat), 1 - 1e-9)[:, None]
        predicted = (hat @ targets - leverage * targets) / (1 - leverage)
        error = float(((targets - predicted) ** 2).sum())
        if error < best_error:
            best_error, penalty, left_out = error, float(candidate), predicted
    dual = (vectors / (values + penalty)) @ vectors.T @ (targets - targets.mean(0))
    scale = likeliest_scale(left_out, labels)
    weight = scale * (dual.T @ (samples - mean))
    bias = scale * targets.mean(0) - weight @ mean
    return LinearHead(weight / length, bias - weight @ centre / length)


def logistic_regression(
    features: Floats, labels: Labels, num_classes: int, centre: Floats, weights: Floats | None = None, c: float = 10.0
) -> LinearHead:
    """Multinomial logistic regression with an L2 penalty on features centred and scaled to a mean length of 1.

    Args:
        weights: how much each sample counts; 1 by default.
        c: scikit-learn's inverse strength of the penalty.
    """
    scale = mean_length(features - centre)
    model = LogisticRegression(C=c, max_iter=2000)
    model.fit((features - centre) / scale, labels, sample_weight=weights)
    coefficients, intercept = model.coef_, model.intercept_
    if num_classes == 2:
        coefficients, intercept = np.stack([-coefficients[0], coefficients[0]]) / 2, np.array([-1, 1]) * intercept / 2
    weight = coefficients / scale
    return LinearHead(weight, intercept - weight @ centre)


def k_nearest_neighbours(features: Floats, labels: Labels, num_classes: int, centre: Floats) -> NeighbourHead:
    """The classes of the nearest support samples; k and the weight of their votes as the support left out has it."""
    directions = unit(features - centre)
    cosines = directions @ directions.T
    np.fill_diagonal(cosines, -np.inf)
    best = (-np.inf, 1, 1.0)
    for k in (k for k in NEIGHBOURS if k < len(labels)) if len(labels) > num_classes else ():
        for scale in SCALES:
            likelihood = _mean_log_likelihood(_votes(cosines, labels, num_classes, k, scale), labels)
            best = max(best, (likelihood, -k, float(scale)))
    return NeighbourHead(directions, labels, num_classes, centre, abs(best[1]), best[2])


def unit(vectors: Floats) -> Floats:
    """Each row divided by its length."""
    divided: Floats = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return divided


def class_directions(directions: Floats, labels: Labels, num_classes: int) -> Floats:
    """The direction of each class's mean, (classes, dimensions)."""
    return unit(np.stack([directions[labels == label].mean(0) for label in range(num_classes)]))


def whitened(support: Floats, labels: Labels, num_classes: int, others: Floats) -> tuple[Floats, Floats]:
    """Both sets of samples times C^-½, up to a factor, where C is the covariance within the support's classes.

    C is shrunk towards a multiple of the identity as far as its few samples demand (OAS, Chen et al. 2010: where the
    spread is the same in all directions, almost wholly); where no two samples of a class differ, nothing changes. Along
    directions in which samples of one class differ much, what tells classes apart then counts less (as in linear
    discriminant analysis).
    """
    contrasts = np.concatenate([_contrasts(support[labels == label]) for label in range(num_classes)])
    count, dimensions = contrasts.shape
    if not contrasts.any():
        return support, others
    _, lengths, axes = np.linalg.svd(contrasts, full_matrices=False)
    variances = lengths**2 / count  # along the axes; 0 along whatever they do not span
    mean, mean_square = variances.sum() / dimensions, (variances**2).sum() / dimensions**2
    excess = (count + 1) * max(mean_square - mean**2 / dimensions, 1e-12 * mean_square)
    shrinkage = min((mean_square + mean**2) / excess, 1)
    floor = shrinkage * mean
    factors = np.sqrt(floor / ((1 - shrinkage) * variances + floor))

    def changed(samples: Floats) -> Floats:
        found: Floats = samples - (samples @ axes.T * (1 - factors)) @ axes
        return found

    return changed(support), changed(others)


def left_out_cosines(directions: Floats, labels: Labels, centroids: Floats) -> Floats:
    """Cosines of each sample with the class centroids, its own class's made without it (where it has others)."""
    cosines = directions @ centroids.T
    for label in range(len(centroids)):
        members = np.flatnonzero(labels == label)
        if len(members) > 1:
            others = directions[members].sum(0) - directions[members]
            cosines[members, label] = (unit(others) * directions[members]).sum(1)
    return cosines


def likeliest_scale(scores: Floats, labels: Labels) -> float:
    """The scale that makes the labels most likely under softmax(scale · scores)."""
    return float(SCALES[int(np.argmax([_mean_log_likelihood(scale * scores, labels) for scale in SCALES]))])


def log_softmax(logits: Floats) -> Floats:
    """Logarithms of the probabilities over the last axis."""
    normalised: Floats = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    return normalised


def softmax(logits: Floats) -> Floats:
    """Probabilities over the last axis."""
    return np.exp(log_softmax(logits))


def one_hot(labels: Labels, num_classes: int) -> Floats:
    """(samples, classes)."""
    return np.eye(num_classes)[labels]


def mean_length(vectors: Floats) -> float:
    """Mean length of the rows; 1 where all are 0."""
    return float(np.linalg.norm(vectors, axis=1).mean()) or 1.0


def _contrasts(samples: Floats) -> Floats:
    """Each sample but the first against the mean of those before it (Helmert): independent, of the samples' covariance.

    Residuals about the mean are not: two samples have two residuals, but one difference.
    """
    before = np.arange(1, len(samples))[:, None]
    contrasts: Floats = (samples[1:] - samples.cumsum(0)[:-1] / before) * np.sqrt(before / (before + 1))
    return contrasts


def _votes(cosines: Floats, labels: Labels, num_classes: int, k: int, scale: float) -> Floats:
    """Logarithm of each class's share of the votes of the k nearest; a class without a vote has LEAST_SHARE."""
    nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    weights = np.exp(scale * (np.take_along_axis(cosines, nearest, 1) - cosines.max(1, keepdims=True)))
    votes = np.einsum("nk,nkc->nc", weights, one_hot(labels, num_classes)[nearest])
    logits: Floats = np.log(np.maximum(votes / votes.sum(1, keepdims=True), LEAST_SHARE))
    return logits


def _mean_log_likelihood(logits: Floats, labels: Labels) -> float:
    return float(log_softmax(logits)[np.arange(len(labels)), labels].mean())
