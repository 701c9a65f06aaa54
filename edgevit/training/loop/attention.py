"""Attention without torch's fused kernel, for training in bfloat16 on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from edgevit.inference.precision import Precision

SWITCH = "fused_attn"  # timm's name for the choice, on each attention layer


@contextmanager
def fastest_attention(model: nn.Module, device: torch.device, precision: Precision) -> Iterator[None]:
    """Train timm's attention layers by plain matrix products where torch's fused kernel is slow.

    On a CPU, the kernel's backward pass in bfloat16 takes about half of a small ViT's step
    (`benchmarks/distillation_speed.py`). Afterwards, the layers are as they were before.
    """
    switched = (
        [module for module in model.modules() if getattr(module, SWITCH, False) is True]
        if device.type == "cpu" and precision == "bfloat16"
        else []
    )
    for module in switched:
        setattr(module, SWITCH, False)
    try:
        yield
    finally:
        for module in switched:
            setattr(module, SWITCH, True)
