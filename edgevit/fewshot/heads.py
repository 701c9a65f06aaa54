"""Classifiers fitted to a few labelled features.

Features are (samples, dimensions) float64; labels (samples,) in 0..num_classes-1, with every class at least once.
`center` (dimensions,) is subtracted from all features. Nothing here is random.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression

from edgevit.data.dataset import Labels
from edgevit.models.knn_classifier import LEAST_SHARE

Floats = npt.NDArray[np.float64]

SCALES = np.geomspace(1, 100, 41)  # candidates for the scale of logits
PENALTIES = np.geomspace(1e-3, 1e3, 25)  # candidates of ridge
NEIGHBORS = (1, 3, 5, 9)  # candidates for k of k_nearest_neighbors


@dataclass(frozen=True)
class LinearHead:
    """A linear classifier, logits = features @ weight.T + bias; weight (classes, dimensions), bias (classes,)."""

    weight: Floats
    bias: Floats

    def logits(self, features: Floats) -> Floats:
        """The logits of features, (samples, classes)."""
        logits: Floats = features @ self.weight.T + self.bias
        return logits


@dataclass(frozen=True)
class NearestNeighborHead:
    """A classifier by the votes of the `k` support samples with the highest cosine; a vote weighs exp(scale · cosine).

    Attributes:
        directions: (support samples, dimensions), unit vectors from `center`.
        labels: (support samples,), the class of each support sample.
        num_classes: number of classes.
        center: (dimensions,).
    """

    directions: Floats
    labels: Labels
    num_classes: int
    center: Floats
    k: int
    scale: float

    def logits(self, features: Floats) -> Floats:
        """The logarithm of each class's share of the votes, (samples, classes)."""
        cosines = unit(features - self.center) @ self.directions.T
        return _votes(cosines, self.labels, self.num_classes, self.k, self.scale)


Head = LinearHead | NearestNeighborHead


def nearest_centroid(features: Floats, labels: Labels, num_classes: int, center: Floats) -> LinearHead:
    """Classify by the class whose mean direction from `center` has the highest cosine (SimpleShot, Wang et al. 2019).

    The length of a sample does not change the prediction, so a linear layer gives the same predictions. The scale of
    the logits maximizes the likelihood of the support samples, each left out of its own class's centroid.
    """
    directions = unit(features - center)
    centroids = class_directions(directions, labels, num_classes)
    scale = likeliest_scale(left_out_cosines(directions, labels, centroids), labels) / mean_length(features - center)
    return LinearHead(scale * centroids, -scale * centroids @ center)


def ridge(
    features: Floats, labels: Labels, num_classes: int, center: Floats, weights: Floats | None = None
) -> LinearHead:
    """Least squares on targets ±1 with an L2 penalty, on features centered and scaled to a mean length of 1.

    The penalty minimizes the squared leave-one-out error, in closed form (Allen 1974, PRESS). The scale of the logits
    maximizes the likelihood of the leave-one-out predictions.

    Args:
        weights: (samples,), the weight of each sample in all sums; 1 by default.
    """
    weights = np.ones(len(features)) if weights is None else weights
    roots = np.sqrt(weights)[:, None]  # least squares with weights is least squares on rows times their roots
    pairs = roots @ roots.T
    length = mean_length(features - center)
    samples = (features - center) / length
    mean = (weights[:, None] * samples).sum(0) / weights.sum()
    targets = 2.0 * one_hot(labels, num_classes) - 1
    mean_target = (weights[:, None] * targets).sum(0) / weights.sum()
    values, vectors = np.linalg.eigh(pairs * ((samples - mean) @ (samples - mean).T))
    values = np.maximum(values, 0)
    best_error, penalty, left_out = np.inf, 0.0, targets
    for candidate in PENALTIES:
        hat = (vectors * (values / (values + candidate))) @ vectors.T + pairs / weights.sum()
        leverage = np.minimum(np.diag(hat), 1 - 1e-9)[:, None]
        predicted = (hat @ (roots * targets) / roots - leverage * targets) / (1 - leverage)
        error = float((weights[:, None] * (targets - predicted) ** 2).sum())
        if error < best_error:
            best_error, penalty, left_out = error, float(candidate), predicted
    dual = (vectors / (values + penalty)) @ vectors.T @ (roots * (targets - mean_target))
    scale = likeliest_scale(left_out, labels, weights)
    weight = scale * ((roots * dual).T @ (samples - mean))
    bias = scale * mean_target - weight @ mean
    return LinearHead(weight / length, bias - weight @ center / length)


def logistic_regression(
    features: Floats, labels: Labels, num_classes: int, center: Floats, weights: Floats | None = None, c: float = 10.0
) -> LinearHead:
    """Multinomial logistic regression with an L2 penalty, on features centered and scaled to a mean length of 1.

    Args:
        weights: (samples,), the weight of each sample; 1 by default.
        c: the inverse strength of the penalty, as in scikit-learn.
    """
    scale = mean_length(features - center)
    model = LogisticRegression(C=c, max_iter=2000)
    model.fit((features - center) / scale, labels, sample_weight=weights)
    coefficients, intercept = model.coef_, model.intercept_
    if num_classes == 2:
        coefficients, intercept = np.stack([-coefficients[0], coefficients[0]]) / 2, np.array([-1, 1]) * intercept / 2
    weight = coefficients / scale
    return LinearHead(weight, intercept - weight @ center)


def k_nearest_neighbors(features: Floats, labels: Labels, num_classes: int, center: Floats) -> NearestNeighborHead:
    """Classify by the nearest support samples. k and the scale of the votes maximize the leave-one-out likelihood."""
    directions = unit(features - center)
    cosines = directions @ directions.T
    np.fill_diagonal(cosines, -np.inf)
    best = (-np.inf, -1, 1.0)  # likelihood, -k, scale
    for k in (k for k in NEIGHBORS if k < len(labels)) if len(labels) > num_classes else ():
        for scale in SCALES:
            likelihood = mean_log_likelihood(_votes(cosines, labels, num_classes, k, scale), labels)
            best = max(best, (likelihood, -k, float(scale)))
    return NearestNeighborHead(directions, labels, num_classes, center, -best[1], best[2])


def unit(vectors: Floats) -> Floats:
    """Each row divided by its Euclidean length."""
    divided: Floats = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return divided


def class_directions(directions: Floats, labels: Labels, num_classes: int) -> Floats:
    """The unit vector of each class's mean direction, (classes, dimensions)."""
    return unit(np.stack([directions[labels == label].mean(0) for label in range(num_classes)]))


def whitened(support: Floats, labels: Labels, num_classes: int, others: Floats) -> tuple[Floats, Floats]:
    """Both sets of samples times C^-½, up to a factor, where C is the covariance within the support's classes.

    Directions in which samples of one class differ much get less weight, as in linear discriminant analysis. C is
    shrunk towards a multiple of the identity, by an amount that depends on the number of samples (OAS, Chen et al.
    2010: almost completely if the spread is equal in all directions). If no two samples of a class differ, the samples
    stay as they are.
    """
    contrasts = np.concatenate([_contrasts(support[labels == label]) for label in range(num_classes)])
    count, dimensions = contrasts.shape
    if not contrasts.any():
        return support, others
    _, lengths, axes = np.linalg.svd(contrasts, full_matrices=False)
    variances = lengths**2 / count  # along the axes; 0 in all directions outside their span
    mean, mean_square = variances.sum() / dimensions, (variances**2).sum() / dimensions**2
    excess = (count + 1) * max(mean_square - mean**2 / dimensions, 1e-12 * mean_square)
    shrinkage = min((mean_square + mean**2) / excess, 1)
    floor = shrinkage * mean
    factors = np.sqrt(floor / ((1 - shrinkage) * variances + floor))

    def whiten(samples: Floats) -> Floats:
        whitened_samples: Floats = samples - (samples @ axes.T * (1 - factors)) @ axes
        return whitened_samples

    return whiten(support), whiten(others)


def left_out_cosines(directions: Floats, labels: Labels, centroids: Floats) -> Floats:
    """Cosines of each sample with the class centroids, (samples, classes).

    A sample is left out of its own class's centroid, if the class has other samples.
    """
    cosines = directions @ centroids.T
    for label in range(len(centroids)):
        members = np.flatnonzero(labels == label)
        if len(members) > 1:
            others = directions[members].sum(0) - directions[members]
            cosines[members, label] = (unit(others) * directions[members]).sum(1)
    return cosines


def likeliest_scale(scores: Floats, labels: Labels, weights: Floats | None = None) -> float:
    """The scale in SCALES that maximizes the likelihood of the labels under softmax(scale · scores).

    Args:
        weights: (samples,), the weight of each sample; 1 by default.
    """
    likelihoods = [mean_log_likelihood(scale * scores, labels, weights) for scale in SCALES]
    return float(SCALES[int(np.argmax(likelihoods))])


def log_softmax(logits: Floats) -> Floats:
    """Logarithms of the probabilities over the last axis."""
    log_probabilities: Floats = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    return log_probabilities


def softmax(logits: Floats) -> Floats:
    """Probabilities over the last axis."""
    return np.exp(log_softmax(logits))


def mean_log_likelihood(logits: Floats, labels: Labels, weights: Floats | None = None) -> float:
    """The mean of log p(label), where p is the softmax of the logits; `weights` (samples,) weigh the samples."""
    return float(np.average(log_softmax(logits)[np.arange(len(labels)), labels], weights=weights))


def one_hot(labels: Labels, num_classes: int) -> Floats:
    """One-hot vectors of the labels, (samples, classes)."""
    return np.eye(num_classes)[labels]


def mean_length(vectors: Floats) -> float:
    """The mean Euclidean length of the rows; 1 if all rows are 0."""
    return float(np.linalg.norm(vectors, axis=1).mean()) or 1.0


def _contrasts(samples: Floats) -> Floats:
    """Each sample but the first, minus the mean of the samples before it, scaled (Helmert contrasts).

    The contrasts are independent and have the covariance of the samples. Residuals about the mean are not independent:
    two samples have two residuals, but one difference.
    """
    before = np.arange(1, len(samples))[:, None]
    contrasts: Floats = (samples[1:] - samples.cumsum(0)[:-1] / before) * np.sqrt(before / (before + 1))
    return contrasts


def _votes(cosines: Floats, labels: Labels, num_classes: int, k: int, scale: float) -> Floats:
    """The logarithm of each class's share of the votes of the k nearest; a class without votes has LEAST_SHARE."""
    nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    weights = np.exp(scale * (np.take_along_axis(cosines, nearest, 1) - cosines.max(1, keepdims=True)))
    votes = np.einsum("nk,nkc->nc", weights, one_hot(labels, num_classes)[nearest])
    logits: Floats = np.log(np.maximum(votes / votes.sum(1, keepdims=True), LEAST_SHARE))
    return logits
