"""Heads that show what frozen features are worth: weighted nearest neighbors and logistic regression.

Features are (samples, dimensions) float64, labels (samples,) int64 in 0..num_classes-1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from sklearn.neighbors import NearestNeighbors

from edgevit.data.dataset import Indices, Labels
from edgevit.evaluation.feature_record import HeadPredictions
from edgevit.fewshot.crossvalidation import fold_count, folds, score
from edgevit.fewshot.heads import Floats, logistic_regression, unit
from edgevit.progress import Progress

PENALTIES = tuple(float(c) for c in np.geomspace(1e-3, 1e3, 7))  # inverse strengths C that are tried
DEFAULT_PENALTY = 10.0  # where no image can be held out to choose one

# The predictions of one or several heads, by name, for queries; from labelled features.
Probe = Callable[[Floats, Labels, Floats, int], dict[str, Labels]]


class LabelPlan(NamedTuple):
    """The labels that heads are fitted to.

    Attributes:
        shares: shares of the labels, each above 0 and at most 1.
        draws: number of draws of a share below 1.
        seed: seed of the draws.
    """

    shares: Sequence[float]
    draws: int
    seed: int


def probed(
    probe: Probe,
    support: Floats,
    labels: Labels,
    queries: Floats,
    plan: LabelPlan,
    num_classes: int,
    progress: Progress,
) -> tuple[HeadPredictions, ...]:
    """The predictions of a probe for the queries, for each share of the labels, over all draws."""
    chosen = {share: draws_of(labels, share, plan.draws, plan.seed) for share in plan.shares}
    heads = []
    with progress.bar("heads", sum(map(len, chosen.values())), "fits") as bar:
        for share, draws in chosen.items():
            by_head: dict[str, list[Labels]] = {}
            for draw in draws:
                for name, predicted in probe(support[draw], labels[draw], queries, num_classes).items():
                    by_head.setdefault(name, []).append(predicted)
                bar.advance()
            heads += [
                HeadPredictions(name, share, len(draws[0]), np.stack(predicted)) for name, predicted in by_head.items()
            ]
    return tuple(heads)


def draws_of(labels: Labels, share: float, draws: int, seed: int) -> list[Indices]:
    """Positions of a share of the samples of each class, at least one, in ascending order; all of them for share 1.

    A draw is a function of (seed, number, share, labels).
    """
    if share == 1:
        return [np.arange(len(labels))]
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    drawn = []
    for number in range(draws):
        rng = np.random.default_rng([seed, number])
        parts = [rng.permutation(own)[: max(1, round(share * len(own)))] for own in members]
        drawn.append(np.sort(np.concatenate(parts)))
    return drawn


def nearest_neighbors_probe(neighbors: Sequence[int], temperature: float) -> Probe:
    """Votes of the k samples with the highest cosine, each weighted by exp(cosine / τ), for each k.

    Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", section 3.4; k and τ as
    in DINO (Caron et al. 2021). A k above the number of samples gives no prediction.
    """

    def probe(support: Floats, labels: Labels, queries: Floats, num_classes: int) -> dict[str, Labels]:
        usable = [k for k in neighbors if k <= len(support)]
        if not usable:
            return {}
        cosines, nearest = nearest_in(support, queries, max(usable))
        weights = np.exp((cosines - cosines[:, :1]) / temperature)  # of the nearest: 1
        return {
            f"kNN, k {k}, τ {temperature:g}": _votes(labels[nearest[:, :k]], weights[:, :k], num_classes).argmax(1)
            for k in usable
        }

    return probe


def _votes(labels: Labels, weights: Floats, num_classes: int) -> Floats:
    """The sum of the weights of each class's votes, (queries, classes), from votes (queries, k)."""
    cells = np.arange(len(labels))[:, np.newaxis] * num_classes + labels
    votes: Floats = np.bincount(cells.ravel(), weights.ravel(), len(labels) * num_classes).astype(np.float64)
    return votes.reshape(len(labels), num_classes)


def nearest_in(support: Floats, queries: Floats, count: int) -> tuple[Floats, Indices]:
    """The `count` support samples with the highest cosine to each query: cosines and positions, (queries, count)."""
    index = NearestNeighbors(n_neighbors=count, metric="cosine", algorithm="brute").fit(unit(support))
    distances, nearest = index.kneighbors(unit(queries))
    return 1 - distances, nearest


def linear_probe(seed: int) -> Probe:
    """Multinomial logistic regression with an L2 penalty that held-out samples of the support choose.

    The penalty with the best accuracy on one of five stratified folds is taken (of equals, that with the higher
    likelihood), and the head is fitted again to all samples. Where a class has a single sample, none can be held out:
    the penalty is then DEFAULT_PENALTY. The queries choose nothing.
    """

    def probe(support: Floats, labels: Labels, queries: Floats, num_classes: int) -> dict[str, Labels]:
        known, present = np.unique(labels, return_inverse=True)
        c = best_penalty(support, present, seed)
        head = logistic_regression(support, present, len(known), support.mean(0), c=c)
        return {"linear": known[head.logits(queries).argmax(1)]}

    return probe


def best_penalty(support: Floats, labels: Labels, seed: int) -> float:
    """The inverse strength C in PENALTIES that is best on one fold of the support, see `linear_probe`."""
    count = fold_count(labels)
    if count < 2:
        return DEFAULT_PENALTY
    train, held_out = folds(labels, count, seed)[0]
    classes = int(labels.max()) + 1

    def held_out_score(c: float) -> tuple[float, float]:
        head = logistic_regression(support[train], labels[train], classes, support[train].mean(0), c=c)
        return score(head.logits(support[held_out]), labels[held_out])

    return max(PENALTIES, key=held_out_score)
