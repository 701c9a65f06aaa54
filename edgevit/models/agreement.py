"""Whether two models that should compute the same do."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from edgevit.artifacts import Preprocess

LARGEST_DEVIATION = 1e-3  # sums in another order give some 1e-6


@torch.no_grad()
def deviation(found: Callable[[Tensor], Tensor], expected: Callable[[Tensor], Tensor], preprocess: Preprocess) -> float:
    """The largest difference between two models' answers to two pictures of noise, relative to the largest expected.

    Args:
        found, expected: take images (N, 3, H, W), in eval mode.
    """
    images = torch.randn(2, 3, preprocess.height, preprocess.width, generator=torch.Generator().manual_seed(0))
    got, wanted = found(images), expected(images)
    return float((got - wanted).abs().max() / wanted.abs().max().clamp_min(1e-6))
