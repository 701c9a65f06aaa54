"""Features whose classes are known."""

from __future__ import annotations

import numpy as np

from edgevit.data.dataset import Labels
from edgevit.fewshot.heads import Floats


def clusters(per_class: int | list[int], classes: int = 4, spread: float = 0.5, seed: int = 0) -> tuple[Floats, Labels]:
    """Samples about the corners of a simplex, far from the origin."""
    rng = np.random.default_rng(seed)
    counts = [per_class] * classes if isinstance(per_class, int) else per_class
    labels = np.repeat(np.arange(classes), counts)
    centres = 3 * np.eye(classes, 8) + 10
    return centres[labels] + spread * rng.standard_normal((len(labels), 8)), labels


def moons(per_class: int, seed: int = 0) -> tuple[Floats, Labels]:
    """Two bent bands on a sphere that no linear layer tells apart from their ends."""
    rng = np.random.default_rng(seed)
    along = np.linspace(0, np.pi, per_class)
    upper = np.stack([np.cos(along), np.sin(along)], 1)
    lower = np.stack([1 - np.cos(along), 0.4 - np.sin(along)], 1)
    flat = np.concatenate([upper, lower]) + 0.03 * rng.standard_normal((2 * per_class, 2))
    return np.concatenate([flat, np.ones((2 * per_class, 1)) * 2], 1), np.repeat([0, 1], per_class)
