"""The exponential moving average of a model's weights."""

from __future__ import annotations

import torch
from timm.utils import ModelEmaV3
from torch import nn

from edgevit.training.distributed import sharding


class MovingAverage(ModelEmaV3):
    """A moving average that updates each tensor once: under fake quantization, several layers share one range."""

    def apply_update_(self, model: nn.Module, decay: float) -> None:
        """average ← decay · average + (1 − decay) · weights; tensors of integers are copied."""
        ours, theirs = (map(sharding.local, side.state_dict().values()) for side in (self.module, model))
        both = zip(ours, theirs, strict=True)
        once = {own.data_ptr(): (own, new) for own, new in both}.values()
        floats = [pair for pair in once if pair[0].is_floating_point()]
        torch._foreach_lerp_([own for own, _ in floats], [new for _, new in floats], weight=1 - decay)
        for own, new in once:
            if not own.is_floating_point():
                own.copy_(new)
