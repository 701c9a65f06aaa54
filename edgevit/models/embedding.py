"""The embedding of a model: the input of its classifier."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgevit.artifacts import Preprocess
from edgevit.errors import RecipeError
from edgevit.models.knn_classifier import NearestNeighbors
from edgevit.models.timm_models import classifier_prefixes, timm_model
from edgevit.models.views import MultiViewModel


class WithEmbedding(nn.Module):
    """A model that also gives its embedding, the input of its classifier.

    With two classifiers, the embedding is the mean of their inputs. With test-time views, it is the mean over views.

    forward: images (N, 3, H, W) → the model's logits, (N, classes), and the embedding, (N, dimensions).
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._linears = classifiers(model)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        entering: list[Tensor] = []
        hooks = [
            linear.register_forward_pre_hook(lambda _, inputs: entering.append(inputs[0])) for linear in self._linears
        ]
        try:
            answer = self.model(images)
        finally:
            for hook in hooks:
                hook.remove()
        embedding = entering[0] if len(entering) == 1 else torch.stack(entering).mean(0)
        if isinstance(self.model, MultiViewModel):
            embedding = self.model.mean_over_views(embedding)
        return answer, embedding


class Pooled(nn.Module):
    """A model whose output is its embedding.

    The weights of a model with grouped convolutions are laid out channels-last. On a CPU this halves the time of
    MobileNetV2; models without them, such as ResNet-18, would lose a fifth.
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
    """The classifiers of a timm model: one, or two for a class head and a distillation head."""
    modules = dict(timm_model(model).named_modules())
    layers = [modules.get(prefix.removesuffix(".")) for prefix in classifier_prefixes(model)]
    replaceable = [
        layer
        for layer in layers
        if isinstance(layer, NearestNeighbors) or (isinstance(layer, nn.Linear) and layer.bias is not None)
    ]
    if not replaceable:
        raise RecipeError(
            "this model's classifier is not a linear layer, so no linear head fits it",
            got=type(timm_model(model)).__name__,
            expected="a model that ends in a linear layer",
            next="train it instead: a train stage with init; or export it with embedding: false",
        )
    return replaceable


@torch.no_grad()
def embedding_width(model: nn.Module, preprocess: Preprocess) -> int:
    """The number of dimensions of the embedding, from one image.

    Raises RecipeError if the embedding is not a vector.
    """
    with_embedding = WithEmbedding(model)
    image = torch.zeros(1, 3, preprocess.height, preprocess.width)
    try:
        shape = tuple(with_embedding(image)[1].shape)
    except RuntimeError:  # the inputs of two linear layers have shapes of their own
        shape = ()
    if len(shape) != 2:
        raise RecipeError(
            "the input of this model's classifier is not one vector for each image",
            got=type(timm_model(model)).__name__,
            expected="a model that pools before its classifier",
            next="export it with embedding: false",
        )
    return int(shape[1])
