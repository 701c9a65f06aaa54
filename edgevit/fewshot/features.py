"""Pooled features of a classifier, and a new classifier in its place."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from edgevit.configs import Augmentation
from edgevit.data.dataset import Dataset
from edgevit.fewshot.heads import Floats, Head, LinearHead, NeighbourHead, one_hot
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
    """What enters the model's classifier, (samples, dimensions).

    With random views, the mean of the plain picture's and theirs, the plain picture counting as much as all of them.
    """
    with (progress or SilentProgress()).bar(dataset.name, (1 + random_views) * len(dataset), "views") as bar:
        plain = model.embeddings(dataset, bar=bar)
        views = [model.embeddings_of_views(dataset, augmentation, view, seed, bar) for view in range(random_views)]
    averaged = (plain + torch.stack(views).mean(0)) / 2 if views else plain
    features: Floats = averaged.numpy().astype(np.float64)
    return features


def with_head(built: BuiltModel, head: Head, drop_rates: Mapping[str, float] | None = None) -> BuiltModel:
    """The same model with this classifier.

    Raises:
        RecipeError: the model ends in no linear layer; or in two, where the head is one of nearest neighbours.
    """
    if isinstance(head, LinearHead):
        return with_linear_head(built, head, drop_rates)
    return _with_neighbours(built, head, drop_rates)


def with_linear_head(built: BuiltModel, head: LinearHead, drop_rates: Mapping[str, float] | None = None) -> BuiltModel:
    """The same model with this classifier. Of a distillation-token student both heads get it, and are averaged."""
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


def _with_neighbours(built: BuiltModel, head: NeighbourHead, drop_rates: Mapping[str, float] | None) -> BuiltModel:
    knn = KnnClassifier(samples=len(head.directions), k=head.k, scale=head.scale)
    fresh = with_new_head(built, head.num_classes, drop_rates, knn=knn)
    (layer,) = classifiers(fresh.module)
    assert isinstance(layer, NearestNeighbors)
    layer.directions.copy_(torch.from_numpy(head.directions))
    layer.votes.copy_(torch.from_numpy(one_hot(head.labels, head.num_classes)))
    layer.centre.copy_(torch.from_numpy(head.centre))
    return fresh
