"""From a checkpoint and a support set to a classifier of the support's classes."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch

from edgevit.artifacts import IOSpec
from edgevit.configs import CrossEntropy, Fewshot, SoftDistillation
from edgevit.context import Context
from edgevit.data.dataset import Dataset
from edgevit.errors import DataError, RecipeError
from edgevit.fewshot import heads
from edgevit.fewshot.features import features_of, with_linear_head
from edgevit.models.checkpoints import Checkpoint
from edgevit.models.creation import BuiltModel
from edgevit.training.batches import TrainingStream
from edgevit.training.objectives import distillation_objective, label_objective
from edgevit.training.setup import TrainingSetup
from edgevit.training.teachers import LiveTeacher

# What keeps fine-tuning on a few images from forgetting: as much weight as the labels have.
SELF_DISTILLATION = (CrossEntropy(weight=0.5), SoftDistillation(weight=0.5))


def default_method(pool: Dataset | None) -> str:
    """The method where a recipe names none: what the unlabelled images allow."""
    return "logistic_regression" if pool is None else "label_propagation"


def fit_head(
    checkpoint: Checkpoint, support: Dataset, pool: Dataset | None, method: str, config: Fewshot, context: Context
) -> BuiltModel:
    """The checkpoint's features, frozen, and a new linear classifier of the support's classes.

    Raises:
        DataError: a class has no support image, or there is a single class.
        RecipeError: the method needs a pool and there is none.
    """
    check_support(support)
    assert support.labels is not None
    labels, num_classes = support.labels, len(support.classes)
    if method == "label_propagation" and pool is None:
        raise RecipeError("label_propagation spreads labels through a pool", expected="pool: DATASET.pool")
    built = BuiltModel(checkpoint.module, checkpoint.description, checkpoint.io.preprocess)
    device = torch.device(context.device)
    how = (built.preprocess, device, config.augmentation, config.seed, context.progress)
    support_features = features_of(built.module, support, *how)
    seen = [support_features]
    if pool is not None:
        seen.append(features_of(built.module, pool, *how))
    centre = np.concatenate(seen).mean(0)
    if method == "nearest_centroid":
        head = heads.nearest_centroid(support_features, labels, num_classes, centre)
    elif method == "logistic_regression":
        head = heads.logistic_regression(support_features, labels, num_classes, centre)
    else:
        head = heads.through_pool(support_features, labels, seen[1], num_classes, centre)
    built.module.cpu()
    return with_linear_head(built, head, config.model_rates)


def finetune(
    checkpoint: Checkpoint, support: Dataset, pool: Dataset | None, config: Fewshot, context: Context, out: Path
) -> BuiltModel:
    """All weights trained on the support; on the pool, the model must go on saying what it says now."""
    return finetuning(checkpoint, support, pool, config, context).train(config, context, out)[0]


def finetuning(
    checkpoint: Checkpoint, support: Dataset, pool: Dataset | None, config: Fewshot, context: Context
) -> TrainingSetup:
    """What `finetune` trains. Where the classes are new, a linear head is fitted first (LP-FT, Kumar et al. 2022)."""
    check_support(support)
    start = BuiltModel(checkpoint.module, checkpoint.description, checkpoint.io.preprocess)
    if checkpoint.io.classes != support.classes:
        start = fit_head(checkpoint, support, pool, default_method(pool), config, context)
    num_classes = len(support.classes)
    streams = [TrainingStream(support)]
    objective = label_objective(num_classes, config.label_smoothing)
    if pool is not None:
        streams = [TrainingStream(support, 0.5), TrainingStream(pool, 0.5, labelled=False)]
        io = IOSpec.for_classifier(start.preprocess, support.classes)
        itself = LiveTeacher(copy.deepcopy(start.module), io, support.classes, torch.device(context.device))
        objective = distillation_objective(SELF_DISTILLATION, itself, num_classes, config.label_smoothing)
    return TrainingSetup(start, start.module, support.classes, objective, streams)


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
