"""Every head by its name in recipes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

import numpy as np
from threadpoolctl import threadpool_limits

from edgevit.errors import RecipeError
from edgevit.fewshot import heads, transduction
from edgevit.fewshot.heads import Floats, Head, Labels

INDUCTIVE: dict[str, Callable[[Floats, Labels, int, Floats], Head]] = {
    "nearest_centroid": heads.nearest_centroid,
    "ridge": heads.ridge,
    "logistic_regression": heads.logistic_regression,
    "knn": heads.k_nearest_neighbours,
}
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
) -> Head:
    """A classifier of features (samples, dimensions), fitted by the method of this name.

    A transductive method labels the pool, and logistic regression learns from support and pool. There a sample of the
    pool counts as much as it is sure, 1 − entropy/log(classes) (Iscen et al. 2019); one of the support counts 1.

    Args:
        pool: features without labels. Inductive methods look at their mean alone.
        base: the mean of other features, to be the centre; by default that of support and pool.

    Raises:
        RecipeError: the method is transductive, and there is no pool.
    """
    centre = centre_of(support, pool, base)
    if method in INDUCTIVE:
        with _one_thread():
            return INDUCTIVE[method](support, labels, num_classes, centre)
    probabilities = pool_probabilities(method, support, labels, num_classes, pool, base)
    assert pool is not None
    entropy = -(probabilities * np.log(probabilities + 1e-12)).sum(1)
    certainty = np.clip(1 - entropy / np.log(num_classes), 0, 1)
    with _one_thread():
        return heads.logistic_regression(
            np.concatenate([support, pool]),
            np.concatenate([labels, probabilities.argmax(1)]),
            num_classes,
            centre,
            np.concatenate([np.ones(len(support)), certainty]),
        )


def pool_probabilities(
    method: str,
    support: Floats,
    labels: Labels,
    num_classes: int,
    pool: Floats | None,
    base: Floats | None = None,
) -> Floats:
    """What a method says of the pool, (samples, classes): a transductive one looks at all of it at once.

    Raises:
        RecipeError: the method is transductive, and there is no pool.
    """
    if method in INDUCTIVE:
        assert pool is not None
        return heads.softmax(fit_head(method, support, labels, num_classes, None, base).logits(pool))
    if pool is None:
        raise RecipeError(f"{method} learns from images without labels", expected="pool: DATASET.pool")
    with _one_thread():
        return TRANSDUCTIVE[method](support, labels, num_classes, centre_of(support, pool, base), pool)


def centre_of(support: Floats, pool: Floats | None, base: Floats | None) -> Floats:
    """What features are taken relative to, (dimensions,): the base, or else the mean of support and pool."""
    if base is not None:
        return base
    centre: Floats = (support if pool is None else np.concatenate([support, pool])).mean(0)
    return centre


def _one_thread() -> AbstractContextManager[object]:
    """For products of thin matrices, where further threads spend their time waiting for each other."""
    limited: AbstractContextManager[object] = threadpool_limits(limits=1)
    return limited
