"""k nearest neighbors as a classifier layer, which stores samples."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from edgevit.artifacts import Frozen
from edgevit.errors import RecipeError
from edgevit.models.timm_models import classifier_prefixes, timm_model

LEAST_SHARE = 1e-6  # share of the votes for a class without votes


class KnnClassifier(Frozen):
    """A model with a k-nearest-neighbors layer in place of its linear classifier.

    Attributes:
        samples: the number of samples that the layer stores.
        k: the number of samples that vote.
        scale: factor of the cosine in the weight of a vote.
    """

    change: Literal["knn_classifier"] = "knn_classifier"
    samples: int
    k: int
    scale: float

    def apply(self, model: nn.Module) -> nn.Module:
        """Replace the classifier by the layer, in place. The layer stores no samples yet.

        Raises:
            RecipeError: the model does not end in one linear layer.
        """
        inner = timm_model(model)
        paths = [prefix.removesuffix(".") for prefix in classifier_prefixes(inner)]
        classifier = dict(inner.named_modules()).get(paths[0])
        if len(paths) > 1 or not isinstance(classifier, nn.Linear):
            raise RecipeError(
                "k nearest neighbors replace one linear classifier, and this model does not end in one",
                got=type(inner).__name__,
                expected="a model that ends in one linear layer, or another method",
            )
        inner.set_submodule(paths[0], NearestNeighbors(classifier.in_features, classifier.out_features, self))
        return model


class NearestNeighbors(nn.Module):
    """Features (N, dimensions) → logarithm of each class's share of the votes of the k nearest samples, (N, classes).

    The nearest samples have the largest cosine of the directions from `centre`. A vote weighs exp(scale · cosine).
    """

    directions: Tensor
    votes: Tensor
    centre: Tensor

    def __init__(self, dimensions: int, num_classes: int, config: KnnClassifier) -> None:
        super().__init__()
        self.in_features, self.config = dimensions, config
        self.register_buffer("directions", torch.zeros(config.samples, dimensions))
        self.register_buffer("votes", torch.zeros(config.samples, num_classes))
        self.register_buffer("centre", torch.zeros(dimensions))

    def forward(self, features: Tensor) -> Tensor:
        cosines = nn.functional.normalize(features - self.centre, dim=-1) @ self.directions.T
        nearest, indices = cosines.topk(self.config.k, dim=-1)
        weights = (self.config.scale * (nearest - nearest[:, :1])).exp().unsqueeze(-1)
        votes = (weights * self.votes[indices]).sum(1)
        return torch.log((votes / votes.sum(-1, keepdim=True)).clamp(min=LEAST_SHARE))
