"""Every head by its name in recipes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from edgevit.errors import RecipeError
from edgevit.fewshot import heads, transduction
from edgevit.fewshot.heads import Floats, Head, Labels

INDUCTIVE: dict[str, Callable[[Floats, Labels, int, Floats], Head]] = {
    "nearest_centroid": heads.nearest_centroid,
    "ridge": heads.ridge,
    "logistic_regression": heads.logistic_regression,
    "knn": heads.k_nearest_neighbours,
}
TRANSDUCTIVE: dict[str, Callable[[Floats, Labels, int, Floats, Floats], transduction.Transduced]] = {
    "label_propagation": transduction.label_propagation,
    "gaussian_mixture": transduction.gaussian_mixture,
    "balanced_mixture": partial(transduction.gaussian_mixture, balanced=True),
    "alpha_tim": transduction.alpha_tim,
}


class Fitted(NamedTuple):
    """A head, and what its method says of the pool, (samples, classes), where it looks at one."""

    head: Head
    pool_probabilities: Floats | None = None


def fit_head(
    method: str,
    support: Floats,
    labels: Labels,
    num_classes: int,
    pool: Floats | None = None,
    base: Floats | None = None,
) -> Fitted:
    """A classifier of features (samples, dimensions), fitted by the method of this name.

    Args:
        pool: features without labels. Inductive methods look at their mean alone.
        base: the mean of other features, to be the centre; by default that of support and pool.

    Raises:
        RecipeError: the method is transductive, and there is no pool.
    """
    seen = support if pool is None else np.concatenate([support, pool])
    centre = seen.mean(0) if base is None else base
    if method in INDUCTIVE:
        return Fitted(INDUCTIVE[method](support, labels, num_classes, centre))
    if pool is None:
        raise RecipeError(f"{method} learns from images without labels", expected="pool: DATASET.pool")
    return Fitted(*TRANSDUCTIVE[method](support, labels, num_classes, centre, pool))
