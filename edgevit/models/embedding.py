"""What enters a model's classifier."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgevit.artifacts import Preprocess
from edgevit.errors import RecipeError
from edgevit.models.knn_classifier import NearestNeighbors
from edgevit.models.timm_models import classifier_prefixes, timm_model
from edgevit.models.views import MultiViewModel


class WithEmbedding(nn.Module):
    """A classifier that also gives what enters its last layers; the mean of that where they are two, and over views.

    forward: images (N, 3, H, W) → what the model answers, (N, classes), and the embedding, (N, dimensions).
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._linears = classifiers(model)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        entered: list[Tensor] = []
        hooks = [
            linear.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0])) for linear in self._linears
        ]
        try:
            answer = self.model(images)
        finally:
            for hook in hooks:
                hook.remove()
        embedding = entered[0] if len(entered) == 1 else torch.stack(entered).mean(0)
        if isinstance(self.model, MultiViewModel):
            embedding = self.model.mean_over_views(embedding)
        return answer, embedding


class Pooled(nn.Module):
    """A classifier that answers with its embedding alone.

    Where it has convolutions in groups its weights are laid out channels-last: MobileNetV2 takes half the time so on a
    CPU, while others, such as ResNet-18, lose a fifth.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = WithEmbedding(model)
        if any(isinstance(module, nn.Conv2d) and module.groups > 1 for module in model.modules()):
            self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        embedding: Tensor = self.model(images)[1]
        return embedding


def classifiers(model: nn.Module) -> list[nn.Linear | NearestNeighbors]:
    """The last layers of a timm model: one, or those of its class head and its distillation head."""
    modules = dict(timm_model(model).named_modules())
    found = [modules.get(prefix.removesuffix(".")) for prefix in classifier_prefixes(model)]
    linears = [
        module
        for module in found
        if isinstance(module, NearestNeighbors) or (isinstance(module, nn.Linear) and module.bias is not None)
    ]
    if not linears:
        raise RecipeError(
            "this model's classifier is no linear layer, so that no linear head fits it",
            got=type(timm_model(model)).__name__,
            expected="a model that ends in a linear layer",
            next="train it instead: a train stage with init; or export it with embedding: false",
        )
    return linears


@torch.no_grad()
def embedding_width(model: nn.Module, preprocess: Preprocess) -> int:
    """The dimensions of the embedding, counted on one picture. Raises RecipeError where it is no vector."""
    with_embedding = WithEmbedding(model)
    picture = torch.zeros(1, 3, preprocess.height, preprocess.width)
    try:
        shape = tuple(with_embedding(picture)[1].shape)
    except RuntimeError:  # the inputs of two linear layers have shapes of their own
        shape = ()
    if len(shape) != 2:
        raise RecipeError(
            "what enters this model's classifier is not one vector for each picture",
            got=type(timm_model(model)).__name__,
            expected="a model that pools before its classifier",
            next="export it with embedding: false",
        )
    return int(shape[1])
