"""Low-rank factorization to a budget: two thin linear layers replace a linear layer if they cost less."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgevit.errors import RecipeError
from edgevit.models.cost import macs_by_module
from edgevit.models.creation import BuiltModel, with_change
from edgevit.models.low_rank import LowRanks
from edgevit.models.structures import CHANNEL_MULTIPLE
from edgevit.models.timm_models import timm_model

# Least variance of a direction of the inputs, whose channels have a mean square of 1 each, relative to the largest;
# constant directions would divide by zero.
LEAST_VARIANCE = 1e-6


def factorized_model(built: BuiltModel, second_moments: Mapping[str, Tensor], keep: float) -> BuiltModel:
    """A copy of a model in which two thin linear layers replace a linear layer if they cost less; see `ranks_for`.

    Args:
        second_moments: of the inputs of each layer that may be factorized, by its path; up to a factor.
        keep: the largest share of the multiply-accumulates that may stay.

    Raises:
        RecipeError: the budget cannot be met, or the model has no linear layers but its classifier.
    """
    inner = timm_model(built.module)
    earlier = built.description.change(LowRanks)
    if earlier is not None:
        raise RecipeError(
            "this model was factorized already",
            got=f"{len(earlier.ranks)} layers that are two",
            expected="a model as it was built, trained or pruned",
            next="factorize the model before that, to a smaller keep_macs",
        )
    if not second_moments:
        raise RecipeError(
            "this model has no linear layers to divide",
            got=type(inner).__name__,
            expected="a transformer, or a hybrid with linear layers",
        )
    macs = macs_by_module(inner, built.preprocess.height, built.preprocess.width)
    layers = {path: inner.get_submodule(path) for path in second_moments}
    factors = {
        path: factors_of(layer, second_moments[path], macs[path])
        for path, layer in layers.items()
        if isinstance(layer, nn.Linear)
    }
    ranks = ranks_for(factors, macs[""], keep)
    return with_factors(built, ranks, factors) if ranks else built


def with_factors(built: BuiltModel, ranks: Mapping[str, int], factors: Mapping[str, Factors]) -> BuiltModel:
    """A copy of a model in which the best two layers of these ranks replace each of these layers."""
    factorized = with_change(built, LowRanks(ranks=dict(ranks)))
    inner = timm_model(factorized.module)
    for path, rank in ranks.items():
        inner.get_parameter(f"{path}.0.weight").data.copy_(factors[path].right[:rank])
        inner.get_parameter(f"{path}.1.weight").data.copy_(factors[path].left[:, :rank])
    return factorized


@dataclass(frozen=True, eq=False)
class Factors:
    """A linear layer's weight as a sum of rank-1 products, in order of their energy, the largest first.

    W = left · right. The first r columns of `left` with the first r rows of `right` are the best approximation Wᵣ of
    rank r: the error E‖(W - Wᵣ)·x‖² is the sum of the energies beyond r, for inputs x with the given second moments.

    Attributes:
        left: (outputs, k).
        right: (k, inputs).
        energies: (k,) float64, the part of each product in E‖W·x‖².
        macs: of the whole layer, for one image.
    """

    left: Tensor
    right: Tensor
    energies: Tensor
    macs: int

    def macs_of_rank(self, rank: int) -> int:
        """Multiply-accumulates of the two thin layers, for one image."""
        outputs, inputs = len(self.left), self.right.shape[1]
        return self.macs * rank * (inputs + outputs) // (inputs * outputs)

    def rank_for(self, share: float) -> int | None:
        """The smallest rank, a multiple of 8, that keeps this share of the energy; None if it saves no MACs."""
        kept = self.energies.cumsum(0) / self.energies.sum()
        rank = int((kept < share - 1e-12).sum()) + 1
        rank = math.ceil(rank / CHANNEL_MULTIPLE) * CHANNEL_MULTIPLE
        return rank if rank < len(self.energies) and self.macs_of_rank(rank) < self.macs else None


def factors_of(layer: nn.Linear, second_moments: Tensor, macs: int) -> Factors:
    """The SVD of W·C^½, weighted by the layer's inputs (as in SVD-LLM, Wang et al. 2024, there by Cholesky).

    Large channels of the inputs do not hide the directions of the others: each channel is divided by its size first.

    Args:
        second_moments: C = E[x·xᵀ], (inputs, inputs).
    """
    sizes = second_moments.diagonal().double().sqrt()
    sizes = torch.where(sizes > 0, sizes, 1.0)
    variances, directions = torch.linalg.eigh(second_moments.double() / torch.outer(sizes, sizes))
    roots = variances.clamp_min(LEAST_VARIANCE * float(variances[-1])).sqrt()
    weighted = (layer.weight.detach().double() * sizes) @ directions * roots
    left, singular, right = torch.linalg.svd(weighted, full_matrices=False)
    halves = singular.sqrt()  # each side has half of the scale, so that neither is hard to quantize
    inverse = (right / roots) @ directions.T / sizes
    return Factors((left * halves).float(), (halves.unsqueeze(1) * inverse).float(), singular.square(), macs)


def ranks_for(factors: Mapping[str, Factors], total_macs: int, keep: float) -> dict[str, int]:
    """The rank of each layer that is cheaper as two, so that at most the share `keep` of the model's MACs is left.

    Every layer keeps the same share of its energy: the largest that meets the budget.

    Raises:
        RecipeError: the budget cannot be met.
    """
    excess = total_macs - int(keep * total_macs)
    if excess <= 0:
        return {}

    def ranks(share: float) -> dict[str, int]:
        by_path = {path: layer.rank_for(share) for path, layer in factors.items()}
        return {path: rank for path, rank in by_path.items() if rank is not None}

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
