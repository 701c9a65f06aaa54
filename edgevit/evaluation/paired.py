"""The loss of accuracy of a model against a baseline, on the same images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Drop:
    """Top-1 of a baseline minus top-1 of a model, as a fraction, with its interval over `n` shared images.

    The interval is one of 95%, unless `paired_drop` was given another confidence.
    """

    value: float
    low: float
    high: float
    n: int

    @property
    def may_be_chance(self) -> bool:
        """Whether the interval holds 0."""
        return self.low <= 0 <= self.high


def paired_drop(
    baseline_correct: NDArray[np.bool_], model_correct: NDArray[np.bool_], confidence: float = 0.95
) -> Drop:
    """The drop of top-1 from a baseline to a model, for predictions on the same images in the same order.

    Only images that one model gets right and the other wrong count for the difference. So the interval is far narrower
    than the interval of two separate samples. It is the adjusted Wald interval for paired proportions (Bonett and Price
    2012, J. Educ. Behav. Stat. 37:479): (lost − gained) / n with one image added to both counts and two to n.

    Args:
        baseline_correct, model_correct: (n,), whether the prediction for each image is right; n ≥ 1.
        confidence: of the interval.
    """
    n = len(baseline_correct)
    lost = int(np.sum(baseline_correct & ~model_correct))
    gained = int(np.sum(model_correct & ~baseline_correct))
    lost_share, gained_share = (lost + 1) / (n + 2), (gained + 1) / (n + 2)
    center = lost_share - gained_share
    half = NormalDist().inv_cdf((1 + confidence) / 2) * math.sqrt((lost_share + gained_share - center**2) / (n + 2))
    return Drop((lost - gained) / n, max(-1.0, center - half), min(1.0, center + half), n)
