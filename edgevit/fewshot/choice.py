"""Choice of a head by cross-validation within the support set; no other labels are used."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from edgevit.configs import HEAD_METHODS
from edgevit.data.dataset import Labels
from edgevit.fewshot.crossvalidation import Score, fold_count, folds, mean_score, score
from edgevit.fewshot.heads import Floats
from edgevit.fewshot.methods import TRANSDUCTIVE, fit_head, pool_probabilities
from edgevit.training.class_balance import UNBALANCED, ClassBalance

REPEATS = 3  # repetitions of the cross-validation, each with different folds
NOT_BY_DEFAULT = ("balanced_mixture", "alpha_tim")  # the first assumes a balanced pool; the second is 100 times slower


def default_method(has_pool: bool) -> str:
    """The method if none is named and none can be chosen by cross-validation."""
    return "label_propagation" if has_pool else "logistic_regression"


def default_candidates(has_pool: bool) -> tuple[str, ...]:
    """The candidates if a recipe names none, with the default method first."""
    excluded = {*NOT_BY_DEFAULT, *(() if has_pool else TRANSDUCTIVE)}
    usable = [method for method in HEAD_METHODS if method not in excluded]
    return tuple(sorted(usable, key=lambda method: method != default_method(has_pool)))


def head_scores(
    candidates: Iterable[str],
    support: Floats,
    labels: Labels,
    num_classes: int,
    pool: Floats | None = None,
    base: Floats | None = None,
    seed: int = 0,
    balance: ClassBalance = UNBALANCED,
    balanced: bool = False,
) -> dict[str, Score]:
    """The cross-validated score of each method; {} if a class has a single sample.

    For transductive methods, the held-out samples are added to the pool.

    Args:
        balance: how heads are corrected for classes of unequal size.
        balanced: all classes have the same weight in the score.
    """
    count = fold_count(labels)
    if count < 2:
        return {}
    all_folds = [fold for repeat in range(REPEATS) for fold in folds(labels, count, seed + repeat)]
    sizes = [len(fold.held_out) for fold in all_folds]
    scores = {}
    for method in candidates:
        fold_scores = []
        for train, held_out in all_folds:
            train_features, test_features = support[train], support[held_out]
            if method in TRANSDUCTIVE and pool is not None:
                extended_pool = np.concatenate([pool, test_features])
                probabilities = pool_probabilities(
                    method, train_features, labels[train], num_classes, extended_pool, base
                )
                logits = np.log(probabilities[len(pool) :] + 1e-12)
            else:
                head = fit_head(method, train_features, labels[train], num_classes, pool, base, balance)
                logits = head.logits(test_features)
            fold_scores.append(score(logits, labels[held_out], balanced))
        scores[method] = mean_score(fold_scores, sizes)
    return scores


def best_candidate(scores: dict[str, Score], order: Sequence[str]) -> str:
    """The candidate with the highest score; of equals, the first in `order`."""
    return max(order, key=lambda name: scores[name])
