"""Classifiers made from a handful of labelled features, each a linear layer in the end.

Features are (samples, dimensions) float64; labels (samples,) in 0..num_classes-1. Nothing here draws at random.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

NEIGHBOURS = 5
ALPHA = 0.97  # the share of its label that a node takes from its neighbours (Zhou et al. 2004; between 0 and 1)
LARGEST_POOL = 4000  # samples of the pool in the graph, whose matrix is dense
SCALES = np.geomspace(1, 100, 41)  # tried for the logits of nearest_centroid


@dataclass(frozen=True)
class LinearHead:
    """logits = features @ weight.T + bias; weight (classes, dimensions), bias (classes,)."""

    weight: Floats
    bias: Floats

    def logits(self, features: Floats) -> Floats:
        logits: Floats = features @ self.weight.T + self.bias
        return logits


def nearest_centroid(features: Floats, labels: Labels, num_classes: int, centre: Floats) -> LinearHead:
    """The class whose mean direction from `centre` is nearest by cosine (SimpleShot, Wang et al. 2019).

    A sample's own length does not change which class wins, so a linear layer gives the same answers. The scale of the
    logits is the one under which each support sample is most likely, given the centroids of the others.
    """
    directions = unit(features - centre)
    centroids = unit(np.stack([directions[labels == label].mean(0) for label in range(num_classes)]))
    scale = _scale(_left_out_cosines(directions, labels, centroids), labels) / _mean_length(features - centre)
    return LinearHead(scale * centroids, -scale * centroids @ centre)


def logistic_regression(
    features: Floats, labels: Labels, num_classes: int, centre: Floats, weights: Floats | None = None, c: float = 10.0
) -> LinearHead:
    """Multinomial logistic regression with an L2 penalty on features centred and scaled to a mean length of 1.

    Args:
        features, labels: every class must occur.
        weights: how much each sample counts; 1 by default.
        c: scikit-learn's inverse strength of the penalty.
    """
    scale = _mean_length(features - centre)
    model = LogisticRegression(C=c, max_iter=2000)
    model.fit((features - centre) / scale, labels, sample_weight=weights)
    coefficients, intercept = model.coef_, model.intercept_
    if num_classes == 2:
        coefficients, intercept = np.stack([-coefficients[0], coefficients[0]]) / 2, np.array([-1, 1]) * intercept / 2
    weight = coefficients / scale
    return LinearHead(weight, intercept - weight @ centre)


def label_propagation(support: Floats, labels: Labels, pool: Floats, num_classes: int, centre: Floats) -> Floats:
    """Class probabilities (pool samples, classes), spread over a graph of the nearest neighbours by cosine.

    F = (1 − α)(I − αS)⁻¹Y with S = D^-½ W D^-½ (Zhou et al. 2004, "Learning with local and global consistency"); W
    joins each sample with its nearest neighbours, weight cos³ (Iscen et al. 2019). The rows of Y that belong to a class
    sum to 1, so that a class with more support does not flood the others. Memory grows with the square of the samples.
    """
    directions = unit(np.concatenate([support, pool]) - centre)
    affinity = _neighbour_graph(directions)
    degree = np.maximum(affinity.sum(1), 1e-12)
    smooth = affinity / np.sqrt(np.outer(degree, degree))
    seeds = np.zeros((len(directions), num_classes))
    seeds[np.arange(len(support)), labels] = 1 / np.bincount(labels)[labels]
    spread = np.linalg.solve(np.eye(len(directions)) - ALPHA * smooth, seeds)[len(support) :]
    spread = np.maximum(spread, 0) + 1e-12
    probabilities: Floats = spread / spread.sum(1, keepdims=True)
    return probabilities


def through_pool(support: Floats, labels: Labels, pool: Floats, num_classes: int, centre: Floats) -> LinearHead:
    """Logistic regression on the support and on the pool's propagated labels, each weighted by how sure it is.

    Sure: 1 − entropy/log(classes) of its probabilities (Iscen et al. 2019); a support sample counts 1. Of a pool larger
    than LARGEST_POOL, that many evenly spaced samples take part.
    """
    if len(pool) > LARGEST_POOL:
        pool = pool[np.linspace(0, len(pool) - 1, LARGEST_POOL).astype(np.int64)]
    probabilities = label_propagation(support, labels, pool, num_classes, centre)
    entropy = -(probabilities * np.log(probabilities)).sum(1)
    certainty = np.clip(1 - entropy / np.log(num_classes), 0, 1)
    return logistic_regression(
        np.concatenate([support, pool]),
        np.concatenate([labels, probabilities.argmax(1)]),
        num_classes,
        centre,
        np.concatenate([np.ones(len(support)), certainty]),
    )


def unit(vectors: Floats) -> Floats:
    """Each row divided by its length."""
    divided: Floats = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return divided


def _neighbour_graph(directions: Floats) -> Floats:
    """Symmetric weights (n, n): cos³ where one sample is among the other's nearest, else 0."""
    cosines = directions @ directions.T
    np.fill_diagonal(cosines, -1)
    neighbours = np.argsort(-cosines, axis=1, kind="stable")[:, :NEIGHBOURS]
    rows = np.arange(len(directions))[:, None]
    graph = np.zeros_like(cosines)
    graph[rows, neighbours] = np.maximum(cosines[rows, neighbours], 0) ** 3
    symmetric: Floats = (graph + graph.T) / 2
    return symmetric


def _left_out_cosines(directions: Floats, labels: Labels, centroids: Floats) -> Floats:
    """Cosines of each sample with the class centroids, its own class's made without it (where it has others)."""
    cosines = directions @ centroids.T
    for label in range(len(centroids)):
        members = np.flatnonzero(labels == label)
        if len(members) > 1:
            others = directions[members].sum(0) - directions[members]
            cosines[members, label] = (unit(others) * directions[members]).sum(1)
    return cosines


def _scale(cosines: Floats, labels: Labels) -> float:
    """The scale that makes the labels most likely under softmax(scale · cosines)."""
    rows = np.arange(len(labels))
    likelihoods = [_log_softmax(scale * cosines)[rows, labels].mean() for scale in SCALES]
    return float(SCALES[int(np.argmax(likelihoods))])


def _log_softmax(logits: Floats) -> Floats:
    normalised: Floats = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    return normalised


def _mean_length(vectors: Floats) -> float:
    return float(np.linalg.norm(vectors, axis=1).mean()) or 1.0
