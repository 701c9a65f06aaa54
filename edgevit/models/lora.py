"""LoRA: frozen weights plus a trained change of low rank, merged into plain weights when training is over."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from edgevit.models.timm_models import classifier_prefixes, timm_model

ALPHA = 8.0


class LowRankChange(nn.Module):
    """W + (α/r)·B·A, with A (r, rest) and B (out, r) for a weight W of `out` rows of `rest` numbers each.

    Hu et al. 2021, section 4.1; A is drawn as in their code, B is zero, so that W does not change at first.
    """

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        rows, rest = weight.flatten(1).shape
        self.a = nn.Parameter(weight.new_empty(rank, rest))
        self.b = nn.Parameter(weight.new_zeros(rows, rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))
        self._scale = ALPHA / rank

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self._scale * (self.b @ self.a).view_as(weight)


def add_lora(model: nn.Module, rank: int, seed: int) -> None:
    """Give every linear layer and convolution of the backbone a change of this rank, and freeze all but the classifier.

    Grouped convolutions, depthwise ones among them, get none. `seed` draws A.
    """
    inner = timm_model(model)
    heads = classifier_prefixes(inner)
    for name, parameter in inner.named_parameters():
        parameter.requires_grad_(name.startswith(heads))
    adapted = [
        module
        for name, module in inner.named_modules()
        if _has_a_dense_matrix(module) and not f"{name}.".startswith(heads)
    ]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in adapted:
            assert isinstance(module.weight, Tensor)
            parametrize.register_parametrization(module, "weight", LowRankChange(module.weight, rank))


def merge_lora(model: nn.Module) -> None:
    """Make the changed weights plain ones: nothing of the change is left but its sum with them."""
    for module in list(model.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)


def _has_a_dense_matrix(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
