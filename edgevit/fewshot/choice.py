"""Which head suits: cross-validation inside the support set, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from edgevit.configs import HEAD_METHODS
from edgevit.fewshot.crossvalidation import Score, fold_count, folds, mean_score, score
from edgevit.fewshot.heads import Floats, Labels
from edgevit.fewshot.methods import TRANSDUCTIVE, fit_head, pool_probabilities

REPEATS = 3  # of the cross-validation, each with folds of its own
NOT_BY_DEFAULT = ("balanced_mixture", "alpha_tim")  # assumes a balanced pool; takes a hundred times as long


def default_method(has_pool: bool) -> str:
    """The method where nothing decides: what the unlabelled images allow."""
    return "label_propagation" if has_pool else "logistic_regression"


def default_candidates(has_pool: bool) -> tuple[str, ...]:
    """What is tried where a recipe names no candidates, the default method first."""
    usable = [one for one in HEAD_METHODS if one not in NOT_BY_DEFAULT and (has_pool or one not in TRANSDUCTIVE)]
    return tuple(sorted(usable, key=lambda one: one != default_method(has_pool)))


def head_scores(
    candidates: Iterable[str],
    support: Floats,
    labels: Labels,
    num_classes: int,
    pool: Floats | None = None,
    base: Floats | None = None,
    seed: int = 0,
) -> dict[str, Score]:
    """The cross-validated score of each method; none where a class has a single sample.

    For transductive methods, the samples that are held out join the pool.
    """
    count = fold_count(labels)
    if count < 2:
        return {}
    parts = [fold for repeat in range(REPEATS) for fold in folds(labels, count, seed + repeat)]
    found = {}
    for method in candidates:
        scores = []
        for train, held_out in parts:
            known, asked = support[train], support[held_out]
            if method in TRANSDUCTIVE and pool is not None:
                everything = np.concatenate([pool, asked])
                found_in_pool = pool_probabilities(method, known, labels[train], num_classes, everything, base)
                logits = np.log(found_in_pool[len(pool) :] + 1e-12)
            else:
                logits = fit_head(method, known, labels[train], num_classes, pool, base).logits(asked)
            scores.append(score(logits, labels[held_out]))
        found[method] = mean_score(scores, [len(fold.held_out) for fold in parts])
    return found


def best(scores: dict[str, Score], order: Sequence[str]) -> str:
    """The candidate with the greatest score; of equals the one that comes first in `order`."""
    return max(order, key=lambda name: scores[name])
