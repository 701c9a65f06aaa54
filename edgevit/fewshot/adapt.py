"""From a checkpoint and a support set to a classifier of the support's classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch

from edgevit.artifacts import Artifact
from edgevit.configs import Fewshot
from edgevit.context import Context
from edgevit.data import open_dataset
from edgevit.data.dataset import Dataset, Labels
from edgevit.data.splits import drawn
from edgevit.errors import DataError
from edgevit.fewshot.choice import default_method
from edgevit.fewshot.features import features_of, with_head
from edgevit.fewshot.heads import Floats
from edgevit.fewshot.methods import fit_head
from edgevit.inference.frozen_model import FrozenModel
from edgevit.models.creation import BuiltModel


class Task(NamedTuple):
    """What there is to learn from.

    Attributes:
        pool: images without labels.
        base: images whose mean feature the heads start from.
    """

    support: Dataset
    pool: Dataset | None = None
    base: Dataset | None = None


class TaskFeatures(NamedTuple):
    """The features of a task, all that a head is fitted to: (samples, dimensions), and the mean of the base's."""

    support: Floats
    labels: Labels
    num_classes: int
    pool: Floats | None
    base: Floats | None


def task_of(inputs: Mapping[str, Artifact]) -> Task:
    """The task of a stage's inputs `support`, `pool` and `base`."""
    pool, base = (open_dataset(inputs[name]) if name in inputs else None for name in ("pool", "base"))
    return Task(open_dataset(inputs["support"]), pool, base)


def adapt_head(checkpoint: BuiltModel, task: Task, config: Fewshot, context: Context) -> BuiltModel:
    """The checkpoint with a new classifier by the default method; see `with_fitted_head`."""
    features = task_features(checkpoint, task, config, context)
    return with_fitted_head(checkpoint, features, default_method(task.pool is not None), config)


def task_features(checkpoint: BuiltModel, task: Task, config: Fewshot, context: Context) -> TaskFeatures:
    """The checkpoint's features of a task.

    Raises:
        DataError: a class has no support image, or there is a single class.
    """
    check_support(task.support)
    assert task.support.labels is not None
    pool, base = (
        None if one is None else drawn(one, config.max_pool_images, config.seed) for one in (task.pool, task.base)
    )
    model = FrozenModel(checkpoint.module, checkpoint.preprocess, torch.device(context.device), context.cache)

    def of(dataset: Dataset) -> Floats:
        return features_of(model, dataset, config.augmentation, config.random_views, config.seed, context.progress)

    features = TaskFeatures(
        of(task.support),
        task.support.labels,
        len(task.support.classes),
        None if pool is None else of(pool),
        None if base is None else of(base).mean(0),
    )
    checkpoint.module.cpu()
    return features


def with_fitted_head(checkpoint: BuiltModel, features: TaskFeatures, method: str, config: Fewshot) -> BuiltModel:
    """The checkpoint with a new classifier, fitted to features of its own.

    Raises:
        RecipeError: the method needs a pool and there is none, or a classifier that the model cannot have.
    """
    support, labels, num_classes, pool, base = features
    head = fit_head(method, support, labels, num_classes, pool, base)
    return with_head(checkpoint, head, config.model_rates)


def check_support(support: Dataset) -> None:
    """Raise DataError where the support cannot define its classes."""
    if support.labels is None:
        raise DataError("the support set needs labels", where=support.name)
    if len(support.classes) < 2:
        raise DataError("there is a single class, so nothing can be told apart", where=support.name)
    empty = [name for label, name in enumerate(support.classes) if label not in support.labels]
    if empty:
        raise DataError(
            "classes have no support image", where=support.name, got=", ".join(empty), expected="one of each class"
        )
