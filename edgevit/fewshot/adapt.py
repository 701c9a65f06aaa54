"""Adapt a checkpoint to the classes of a support set, with a head on its features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from edgevit.artifacts import Artifact
from edgevit.configs import Fewshot
from edgevit.context import Context
from edgevit.data import open_dataset
from edgevit.data.dataset import Dataset, Labels
from edgevit.data.splits import sample_by_hash
from edgevit.errors import DataError
from edgevit.fewshot.choice import default_method
from edgevit.fewshot.features import features_of, with_head
from edgevit.fewshot.heads import Floats
from edgevit.fewshot.methods import fit_head
from edgevit.inference.frozen_model import FrozenModel
from edgevit.models.creation import BuiltModel
from edgevit.training.class_balance import class_balance

MANY_PASSES = 2000  # through the model; a stage with more passes says so before it starts


class Task(NamedTuple):
    """The data sets of a few-shot adaptation.

    Attributes:
        support: labelled images of each class.
        pool: images without labels, or None.
        base: images whose mean feature is the center of all features, or None.
    """

    support: Dataset
    pool: Dataset | None = None
    base: Dataset | None = None


class TaskFeatures(NamedTuple):
    """The features of a task, to which heads are fitted.

    Attributes:
        support: (samples, dimensions).
        labels: (samples,), class indices of the support.
        num_classes: number of classes.
        pool: (samples, dimensions), or None.
        base: (dimensions,), the mean feature of the base, or None.
    """

    support: Floats
    labels: Labels
    num_classes: int
    pool: Floats | None
    base: Floats | None


def task_of(inputs: Mapping[str, Artifact]) -> Task:
    """The task from the inputs `support`, `pool` and `base` of a stage."""
    pool, base = (open_dataset(inputs[name]) if name in inputs else None for name in ("pool", "base"))
    return Task(open_dataset(inputs["support"]), pool, base)


def adapt_head(checkpoint: BuiltModel, task: Task, config: Fewshot, context: Context) -> BuiltModel:
    """The checkpoint's model with a new classifier, fitted by the default method; see `with_fitted_head`."""
    features = task_features(checkpoint, task, config, context)
    return with_fitted_head(checkpoint, features, default_method(task.pool is not None), config)


def task_features(checkpoint: BuiltModel, task: Task, config: Fewshot, context: Context) -> TaskFeatures:
    """The features of a task's images in the checkpoint's model.

    Raises:
        DataError: a class has no support image, or there is a single class.
    """
    check_support(task.support)
    assert task.support.labels is not None
    pool, base = (
        None if dataset is None else sample_by_hash(dataset, config.max_pool_images, config.seed)
        for dataset in (task.pool, task.base)
    )
    model = FrozenModel(checkpoint.module, checkpoint.preprocess, torch.device(context.device), context.cache)
    pool_views = config.random_views if config.pool_views is None else config.pool_views
    unlabelled = [dataset for dataset in (pool, base) if dataset is not None]
    _say_the_work(task.support, unlabelled, config.random_views, pool_views, context)

    def dataset_features(dataset: Dataset, views: int) -> Floats:
        return features_of(model, dataset, config.augmentation, views, config.seed, context.progress)

    features = TaskFeatures(
        dataset_features(task.support, config.random_views),
        task.support.labels,
        len(task.support.classes),
        None if pool is None else dataset_features(pool, pool_views),
        None if base is None else dataset_features(base, pool_views).mean(0),
    )
    checkpoint.module.cpu()
    return features


def _say_the_work(
    support: Dataset, unlabelled: Sequence[Dataset], support_views: int, pool_views: int, context: Context
) -> None:
    """Say how many passes through the model the features take, if there are many."""
    parts = [(support, 1 + support_views), *((dataset, 1 + pool_views) for dataset in unlabelled)]
    passes = sum(len(dataset) * views for dataset, views in parts)
    if passes < MANY_PASSES:
        return
    named = " + ".join(f"{dataset.name} {len(dataset):,} × {views}" for dataset, views in parts)
    context.progress.say(f"    {passes:,} passes for features (images × views): {named}")
    if pool_views and (saved := sum(len(dataset) * pool_views for dataset in unlabelled)) > passes / 2:
        context.progress.say(f"    pool_views: 0 would take {passes - saved:,}")


def with_fitted_head(checkpoint: BuiltModel, features: TaskFeatures, method: str, config: Fewshot) -> BuiltModel:
    """The checkpoint's model with a new classifier that is fitted to the features.

    Raises:
        RecipeError: the method needs a pool and there is none, or the model cannot take the classifier.
    """
    support, labels, num_classes, pool, base = features
    head = fit_head(method, support, labels, num_classes, pool, base, class_balance(config))
    return with_head(checkpoint, head, config.model_rates)


def check_support(support: Dataset) -> None:
    """Raise DataError if the support has no labels, a single class, or a class without images."""
    if support.labels is None:
        raise DataError("the support set needs labels", where=support.name)
    if len(support.classes) < 2:
        raise DataError(
            "a classifier needs at least two classes", where=support.name, got=", ".join(support.classes) or "none"
        )
    empty = [name for label, name in enumerate(support.classes) if label not in support.labels]
    if empty:
        raise DataError(
            "classes have no support image", where=support.name, got=", ".join(empty), expected="an image of each class"
        )
