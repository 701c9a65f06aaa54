"""Low-rank factorisation: a linear layer becomes two thin ones, where that costs less."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgevit.errors import ArtifactError, RecipeError, listed
from edgevit.models.structures import CHANNEL_MULTIPLE

LEAST_VARIANCE = 1e-6  # of a direction of the inputs, relative to the largest: what never varies is no reason to divide


@dataclass(frozen=True, eq=False)
class Factors:
    """A linear layer's weight as a sum of products, the one that its outputs owe most to first.

    W = left · right, and the first r columns of `left` with the first r rows of `right` are the best of rank r: they
    leave E‖(W - Wᵣ)·x‖² = Σ energies beyond r, for inputs x with these second moments.

    Attributes:
        left: (outputs, k).
        right: (k, inputs).
        energies: (k,) float64, what each product adds to E‖W·x‖².
        macs: of the whole layer, for one image.
    """

    left: Tensor
    right: Tensor
    energies: Tensor
    macs: int

    def macs_of_rank(self, rank: int) -> int:
        """Of the two thin layers."""
        outputs, inputs = len(self.left), self.right.shape[1]
        return self.macs * rank * (inputs + outputs) // (inputs * outputs)

    def rank_for(self, share: float) -> int | None:
        """The least rank, a multiple of 8, that keeps this share of the energy; None where that saves nothing."""
        kept = self.energies.cumsum(0) / self.energies.sum()
        rank = int((kept < share - 1e-12).sum()) + 1
        rank = math.ceil(rank / CHANNEL_MULTIPLE) * CHANNEL_MULTIPLE
        return rank if rank < len(self.energies) and self.macs_of_rank(rank) < self.macs else None


def factors_of(layer: nn.Linear, second_moments: Tensor, macs: int) -> Factors:
    """The SVD of W·C^½, weighted by what enters the layer (as in SVD-LLM, Wang et al. 2024, there by Cholesky).

    Args:
        second_moments: C = E[x·xᵀ], (inputs, inputs).
    """
    variances, directions = torch.linalg.eigh(second_moments.double())
    roots = variances.clamp_min(LEAST_VARIANCE * float(variances[-1])).sqrt()
    left, singular, right = torch.linalg.svd(layer.weight.detach().double() @ directions * roots, full_matrices=False)
    halves = singular.sqrt()  # each side has half of the scale, so that neither is hard to quantize
    inverse = (right / roots) @ directions.T
    return Factors((left * halves).float(), (halves.unsqueeze(1) * inverse).float(), singular.square(), macs)


def ranks_for(factors: Mapping[str, Factors], total_macs: int, keep: float) -> dict[str, int]:
    """The rank of each layer that is worth two, so that no more than the share `keep` of the model's MACs is left and
    every layer keeps the same share of its energy, the largest that will do.

    Raises:
        RecipeError: so much cannot go.
    """
    excess = total_macs - int(keep * total_macs)
    if excess <= 0:
        return {}

    def ranks(share: float) -> dict[str, int]:
        found = {path: one.rank_for(share) for path, one in factors.items()}
        return {path: rank for path, rank in found.items() if rank is not None}

    def saved(share: float) -> int:
        return sum(factors[path].macs - factors[path].macs_of_rank(rank) for path, rank in ranks(share).items())

    if saved(0.0) < excess:
        least = math.ceil((1 - saved(0.0) / total_macs) * 1000) / 1000
        raise RecipeError(
            "low ranks cannot make the model so small",
            got=f"keep_macs: {keep:g}",
            expected=f"at least {least:g}, where every rank is {CHANNEL_MULTIPLE}",
        )
    enough, too_much = 0.0, 1.0
    for _ in range(40):
        middle = (enough + too_much) / 2
        enough, too_much = (middle, too_much) if saved(middle) >= excess else (enough, middle)
    return ranks(enough)


def factorize(model: nn.Module, ranks: Mapping[str, int], factors: Mapping[str, Factors] | None = None) -> None:
    """Put two layers in the place of each of these, in place: x → right·x → left·(right·x) + bias.

    Without `factors` their weights mean nothing.

    Raises:
        ArtifactError: the model has no such linear layers.
    """
    layers = {path: layer for path, layer in model.named_modules() if type(layer) is nn.Linear}
    unknown = [
        path for path, rank in ranks.items() if path not in layers or not 1 <= rank <= min(layers[path].weight.shape)
    ]
    if unknown:
        raise ArtifactError(
            "the description of low ranks is of another model",
            got=listed(unknown),
            expected=f"linear layers of {type(model).__name__}",
        )
    for path, rank in ranks.items():
        thin = _two_layers(layers[path], rank)
        if factors is not None:
            thin[0].get_parameter("weight").data.copy_(factors[path].right[:rank])
            thin[1].get_parameter("weight").data.copy_(factors[path].left[:, :rank])
        model.set_submodule(path, thin)


def _two_layers(layer: nn.Linear, rank: int) -> nn.Sequential:
    kind = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    first = nn.Linear(layer.in_features, rank, bias=False, **kind)
    second = nn.Linear(rank, layer.out_features, bias=layer.bias is not None, **kind)
    if layer.bias is not None:
        second.bias.data.copy_(layer.bias.detach())
    return nn.Sequential(first, second).train(layer.training)
