"""The methods that fit heads, by their names in recipes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial

import numpy as np
from threadpoolctl import threadpool_limits

from edgevit.data.dataset import Labels
from edgevit.errors import RecipeError
from edgevit.fewshot import heads, transduction
from edgevit.fewshot.heads import Floats, Head, LinearHead
from edgevit.training.class_balance import UNBALANCED, ClassBalance

WeightedMethod = Callable[[Floats, Labels, int, Floats, Floats | None], LinearHead]

WITH_WEIGHTS: dict[str, WeightedMethod] = {"ridge": heads.ridge, "logistic_regression": heads.logistic_regression}
WITHOUT_WEIGHTS: dict[str, Callable[[Floats, Labels, int, Floats], Head]] = {
    "nearest_centroid": heads.nearest_centroid,
    "knn": heads.k_nearest_neighbors,
}
INDUCTIVE = (*WITH_WEIGHTS, *WITHOUT_WEIGHTS)
TRANSDUCTIVE: dict[str, Callable[[Floats, Labels, int, Floats, Floats], Floats]] = {
    "label_propagation": transduction.label_propagation,
    "gaussian_mixture": transduction.gaussian_mixture,
    "balanced_mixture": partial(transduction.gaussian_mixture, balanced=True),
    "alpha_tim": transduction.alpha_tim,
}


def fit_head(
    method: str,
    support: Floats,
    labels: Labels,
    num_classes: int,
    pool: Floats | None = None,
    base: Floats | None = None,
    balance: ClassBalance = UNBALANCED,
) -> Head:
    """Fit a classifier to features (samples, dimensions) by the method of this name.

    A transductive method labels the pool. Then logistic regression is fitted to support and pool, where a pool sample
    has the weight 1 − entropy/log(classes) (Iscen et al. 2019), and a support sample has the weight 1.

    Args:
        pool: features without labels. Inductive methods use only their mean.
        base: (dimensions,), the center of the features; by default the mean of support and pool.
        balance: the correction for classes of unequal size. `nearest_centroid` and `knn` have no loss to correct.

    Raises:
        RecipeError: the method is transductive, and there is no pool.
    """
    center = center_of(support, pool, base)
    if method in WITH_WEIGHTS:
        return _balanced_head(WITH_WEIGHTS[method], support, labels, num_classes, center, None, balance)
    if method in WITHOUT_WEIGHTS:
        with _one_thread():
            return WITHOUT_WEIGHTS[method](support, labels, num_classes, center)
    probabilities = pool_probabilities(method, support, labels, num_classes, pool, base)
    assert pool is not None
    entropy = -(probabilities * np.log(probabilities + 1e-12)).sum(1)
    certainty = np.clip(1 - entropy / np.log(num_classes), 0, 1)
    return _balanced_head(
        heads.logistic_regression,
        np.concatenate([support, pool]),
        np.concatenate([labels, probabilities.argmax(1)]),
        num_classes,
        center,
        np.concatenate([np.ones(len(support)), certainty]),
        balance,
    )


def pool_probabilities(
    method: str,
    support: Floats,
    labels: Labels,
    num_classes: int,
    pool: Floats | None,
    base: Floats | None = None,
) -> Floats:
    """Class probabilities of the pool, (samples, classes). A transductive method uses the whole pool at once.

    Raises:
        RecipeError: the method is transductive, and there is no pool.
    """
    if method in INDUCTIVE:
        assert pool is not None
        return heads.softmax(fit_head(method, support, labels, num_classes, None, base).logits(pool))
    if pool is None:
        raise RecipeError(f"the method {method} needs unlabelled images", expected="pool: DATASET.pool")
    with _one_thread():
        return TRANSDUCTIVE[method](support, labels, num_classes, center_of(support, pool, base), pool)


def center_of(support: Floats, pool: Floats | None, base: Floats | None) -> Floats:
    """The center of the features, (dimensions,): the base, or else the mean of support and pool."""
    if base is not None:
        return base
    mean: Floats = (support if pool is None else np.concatenate([support, pool])).mean(0)
    return mean


def _balanced_head(
    fit: WeightedMethod,
    features: Floats,
    labels: Labels,
    num_classes: int,
    center: Floats,
    weights: Floats | None,
    balance: ClassBalance,
) -> LinearHead:
    """The head, corrected for classes of unequal size. A class's size is the sum of its samples' weights."""
    counts = np.bincount(labels, weights, num_classes).astype(np.float64)
    class_weights, offsets = balance.weights(counts), balance.offsets(counts)
    if class_weights is not None:
        weights = class_weights[labels] * (1.0 if weights is None else weights)
    with _one_thread():
        head = fit(features, labels, num_classes, center, weights)
    return head if offsets is None else replace(head, bias=head.bias - offsets)


def _one_thread() -> AbstractContextManager[object]:
    """A context with a single thread: for products of thin matrices, several threads are slower."""
    limited: AbstractContextManager[object] = threadpool_limits(limits=1)
    return limited
