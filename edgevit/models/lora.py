"""LoRA: frozen weights plus a trained low-rank change, merged into plain weights after training."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from edgevit.models.timm_models import classifier_prefixes, timm_model

ALPHA = 8.0


class LowRankChange(nn.Module):
    """W + (α/r)·B·A, with A (r, inputs) and B (outputs, r) for a weight W of (outputs, inputs) as a matrix.

    Hu et al. 2021, section 4.1. A is drawn as in their code; B is zero, so that W is unchanged at first.
    """

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        outputs, inputs = weight.flatten(1).shape
        self.a = nn.Parameter(weight.new_empty(rank, inputs))
        self.b = nn.Parameter(weight.new_zeros(outputs, rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))
        self._scale = ALPHA / rank

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self._scale * (self.b @ self.a).view_as(weight)


def add_lora(model: nn.Module, rank: int, seed: int) -> None:
    """Add a change of this rank to every linear layer and convolution of the backbone; freeze all but the classifier.

    Grouped convolutions, such as depthwise ones, get no change. `seed` draws A.
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
    """Replace each changed weight by a plain one: the sum of the weight and its change."""
    for module in list(model.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)


def _has_a_dense_matrix(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
