"""Low-rank layers: two thin linear layers in place of a linear layer."""

from __future__ import annotations

from typing import Literal

from torch import nn

from edgevit.artifacts import Frozen
from edgevit.errors import ArtifactError, listed
from edgevit.models.timm_models import timm_model


class LowRanks(Frozen):
    """A factorized model: the rank of each linear layer that became two, by the layer's path."""

    change: Literal["low_ranks"] = "low_ranks"
    ranks: dict[str, int]

    def apply(self, model: nn.Module) -> nn.Module:
        """Replace each of these layers by two thin ones, in place: x → W₁·x → W₂·W₁·x + bias. W₁ and W₂ are random.

        Raises:
            ArtifactError: the model has no such linear layers.
        """
        inner = timm_model(model)
        layers = {path: layer for path, layer in inner.named_modules() if type(layer) is nn.Linear}
        unknown = [
            path
            for path, rank in self.ranks.items()
            if path not in layers or not 1 <= rank <= min(layers[path].weight.shape)
        ]
        if unknown:
            raise ArtifactError(
                "the description of low ranks is of another model",
                got=listed(unknown),
                expected=f"linear layers of {type(inner).__name__}",
            )
        for path, rank in self.ranks.items():
            inner.set_submodule(path, _two_layers(layers[path], rank))
        return model


def _two_layers(layer: nn.Linear, rank: int) -> nn.Sequential:
    like_layer = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    first = nn.Linear(layer.in_features, rank, bias=False, **like_layer)
    second = nn.Linear(rank, layer.out_features, bias=layer.bias is not None, **like_layer)
    if layer.bias is not None:
        second.bias.data.copy_(layer.bias.detach())
    return nn.Sequential(first, second).train(layer.training)
