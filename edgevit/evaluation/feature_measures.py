"""Measures of features without labels. Features are (n, dimensions) float64, a row an image; n ≥ 2."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import special
from scipy.spatial.distance import pdist

Floats = NDArray[np.float64]
SMALLEST_SHARE = 1e-7  # ε of RankMe


def rankme(features: Floats) -> float:
    """The number of dimensions that features fill: the exponential of the entropy of their singular values.

    exp(−Σ p log p), p = σ / Σσ + ε, for the singular values σ of the features, which are not centered (Garrido et al.
    2023, RankMe, eq. 1 and 2). Between 1 and the smaller of n and dimensions.
    """
    singular = np.linalg.svd(features, compute_uv=False)
    shares = singular / max(float(singular.sum()), np.finfo(np.float64).tiny) + SMALLEST_SHARE
    return float(np.exp(special.entr(shares).sum()))


def alignment(first: Floats, second: Floats) -> float:
    """Mean squared distance of the directions of two views of each image; 0 if all agree.

    E‖f(x) − f(y)‖² (Wang and Isola 2020, "Understanding Contrastive Representation Learning through Alignment and
    Uniformity on the Hypersphere", eq. 8 with α = 2).
    """
    return float(((_unit(first) - _unit(second)) ** 2).sum(1).mean())


def uniformity(features: Floats) -> float:
    """Logarithm of the mean Gaussian potential of pairs of directions; 0 if all are alike, about −4 at best.

    log E exp(−2‖f(x) − f(y)‖²) over all pairs of two images (Wang and Isola 2020, eq. 9 with t = 2).
    """
    distances = pdist(_unit(features), "sqeuclidean")
    return float(special.logsumexp(-2 * distances) - np.log(len(distances)))


def _unit(features: Floats) -> Floats:
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    directions: Floats = features / np.maximum(lengths, 1e-12)
    return directions
