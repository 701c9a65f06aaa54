"""The deviation of a model's outputs from the outputs of a reference model with the same function."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from edgevit.artifacts import Preprocess

LARGEST_DEVIATION = 1e-3  # sums in another order give about 1e-6


@torch.no_grad()
def deviation(
    model: Callable[[Tensor], Tensor], reference: Callable[[Tensor], Tensor], preprocess: Preprocess
) -> float:
    """The largest difference between the outputs of two models for two images of noise, relative to the largest output
    of the reference.

    Args:
        model, reference: take images (N, 3, H, W), in eval mode.
    """
    images = torch.randn(2, 3, preprocess.height, preprocess.width, generator=torch.Generator().manual_seed(0))
    answer, expected = model(images), reference(images)
    return float((answer - expected).abs().max() / expected.abs().max().clamp_min(1e-6))
