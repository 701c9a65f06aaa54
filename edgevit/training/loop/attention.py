"""Attention without torch's fused kernel, for training in bfloat16 on a CPU."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from edgevit.inference.precision import Precision
from edgevit.models.attention import unfused_attention


def fastest_attention(model: nn.Module, device: torch.device, precision: Precision) -> AbstractContextManager[None]:
    """Train timm's attention layers by plain matrix products where torch's fused kernel is slow.

    On a CPU, the kernel's backward pass in bfloat16 takes about half of a small ViT's step
    (`benchmarks/distillation_speed.py`). Afterwards, the layers are as they were before.
    """
    is_slow = device.type == "cpu" and precision == "bfloat16"
    return unfused_attention(model) if is_slow else nullcontext()
