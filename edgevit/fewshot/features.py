"""Features of a model before its classifier, and models with a new classifier."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from edgevit.configs import Augmentation
from edgevit.data.dataset import Dataset
from edgevit.fewshot.heads import Floats, Head, LinearHead, NearestNeighborHead, one_hot
from edgevit.inference.frozen_model import FrozenModel
from edgevit.models.creation import BuiltModel, with_new_head
from edgevit.models.distillation_token import DistillationToken
from edgevit.models.embedding import classifiers
from edgevit.models.knn_classifier import KnnClassifier, NearestNeighbors
from edgevit.models.timm_models import timm_model
from edgevit.progress import Progress, SilentProgress


def features_of(
    model: FrozenModel,
    dataset: Dataset,
    augmentation: Augmentation,
    random_views: int = 0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Floats:
    """The input of the model's classifier for each image, (samples, dimensions) float64.

    With random views, it is the mean of the plain image's feature and the views' mean feature.
    """
    with (progress or SilentProgress()).bar(dataset.name, (1 + random_views) * len(dataset), "views") as bar:
        plain = model.embeddings(dataset, bar=bar)
        views = [model.embeddings_of_views(dataset, augmentation, view, seed, bar) for view in range(random_views)]
    averaged = (plain + torch.stack(views).mean(0)) / 2 if views else plain
    features: Floats = averaged.numpy().astype(np.float64)
    return features


def with_head(built: BuiltModel, head: Head, drop_rates: Mapping[str, float] | None = None) -> BuiltModel:
    """The model with this head as its classifier.

    Raises:
        RecipeError: the model does not end in a linear layer; or it ends in two, and the head is of nearest neighbors.
    """
    if isinstance(head, LinearHead):
        return with_linear_head(built, head, drop_rates)
    return _with_knn_head(built, head, drop_rates)


def with_linear_head(built: BuiltModel, head: LinearHead, drop_rates: Mapping[str, float] | None = None) -> BuiltModel:
    """The model with this linear classifier. A student with a distillation token gets it for both heads, and averages
    their logits.
    """
    fresh = with_new_head(built, len(head.bias), drop_rates)
    model = timm_model(fresh.module)
    if fresh.description.change(DistillationToken):
        model.set_distilled_training(False)  # type: ignore[operator]
    with torch.no_grad():
        for linear in classifiers(model):
            assert isinstance(linear, nn.Linear)
            linear.weight.copy_(torch.from_numpy(head.weight))
            linear.bias.copy_(torch.from_numpy(head.bias))
    return BuiltModel(model.eval(), fresh.description.without_change(DistillationToken), built.preprocess)


def _with_knn_head(built: BuiltModel, head: NearestNeighborHead, drop_rates: Mapping[str, float] | None) -> BuiltModel:
    knn = KnnClassifier(samples=len(head.directions), k=head.k, scale=head.scale)
    fresh = with_new_head(built, head.num_classes, drop_rates, knn=knn)
    (layer,) = classifiers(fresh.module)
    assert isinstance(layer, NearestNeighbors)
    layer.directions.copy_(torch.from_numpy(head.directions))
    layer.votes.copy_(torch.from_numpy(one_hot(head.labels, head.num_classes)))
    layer.centre.copy_(torch.from_numpy(head.center))
    return fresh
