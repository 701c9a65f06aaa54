"""The momentum of a moving teacher, and the share of its initial weights that is left after a training."""

from __future__ import annotations

import math

# Without a given momentum, at most about exp(-4) = 2% of the initial weights is left after 80 steps or more.
EXPONENT = 4
LEAST_MOMENTUM = 0.9


def student_weight(momentum: float, rises: bool, step: int, total: int) -> float:
    """The weight of the student in the moving average at update number `step`, from 1, of `total`.

    If `rises`, the momentum rises to 1 by half a cosine (Grill et al. 2020, section 3.3).
    """
    return (1 - momentum) * ((math.cos(math.pi * step / total) + 1) / 2 if rises else 1.0)


def momentum_for(papers: float, rises: bool, total: int) -> float:
    """The momentum of a training of `total` steps: the paper's, or a smaller one for a short training.

    The initial weights keep a share of about exp(-(1 - momentum) · total); half the exponent if the momentum rises.
    """
    return min(papers, max(LEAST_MOMENTUM, 1 - EXPONENT * (2 if rises else 1) / max(1, total)))


def initial_share(momentum: float, rises: bool, total: int) -> float:
    """The share of the initial weights in the moving average after `total` steps, 0 to 1."""
    return math.prod(1 - student_weight(momentum, rises, step, total) for step in range(1, total + 1))
