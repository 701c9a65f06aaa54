"""Fine-tuning of all or some weights on a small support set."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import NamedTuple

import torch
from timm.layers.norm import RmsNorm, RmsNorm2d, SimpleNorm, SimpleNorm2d
from torch import nn

from edgevit.artifacts import IOSpec, Json
from edgevit.configs import CrossEntropy, Fewshot, SoftDistillation
from edgevit.context import Context
from edgevit.errors import RecipeError
from edgevit.fewshot.adapt import Task, adapt_head, check_support
from edgevit.models.creation import BuiltModel
from edgevit.models.lora import add_lora, merge_lora
from edgevit.models.timm_models import classifier_prefixes, timm_model
from edgevit.training.classifier_learner import ClassifierLearner
from edgevit.training.distillation.teachers import LiveTeacher
from edgevit.training.distributed.sharding import is_asked
from edgevit.training.loop.batches import TrainingStream, seed_of
from edgevit.training.loop.setup import TrainingSetup, label_loss
from edgevit.training.loop.streams import sampled
from edgevit.training.objectives import distillation_objective, label_objective

# With a pool, self-distillation has the same weight as the labels. It prevents forgetting.
SELF_DISTILLATION = (CrossEntropy(weight=0.5), SoftDistillation(weight=0.5))
NORMALIZATIONS = (
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.modules.batchnorm._BatchNorm,
    RmsNorm,
    RmsNorm2d,
    SimpleNorm,
    SimpleNorm2d,
)


class Finetuned(NamedTuple):
    """A model, and for its provenance the precision that its training took; nothing if nothing was trained."""

    built: BuiltModel
    computed_in: Json


def finetune(checkpoint: BuiltModel, task: Task, config: Fewshot, context: Context, out: Path) -> Finetuned:
    """The model fine-tuned on the support. On the pool, it learns to keep its present predictions."""
    start = with_task_classes(checkpoint, task, config, context)
    return finetune_from(start, task, config, context, out)


def finetuning_setup(checkpoint: BuiltModel, task: Task, config: Fewshot, context: Context) -> TrainingSetup:
    """The training setup of `finetune`."""
    return _setup(with_task_classes(checkpoint, task, config, context), task, config, context)


def with_task_classes(checkpoint: BuiltModel, task: Task, config: Fewshot, context: Context) -> BuiltModel:
    """The model from which fine-tuning starts; for new classes, with a fitted head (LP-FT, Kumar et al. 2022)."""
    check_support(task.support)
    if checkpoint.classes == task.support.classes:
        return checkpoint
    return adapt_head(checkpoint, task, config, context)


def finetune_from(start: BuiltModel, task: Task, config: Fewshot, context: Context, out: Path) -> Finetuned:
    """Fine-tune `start` in place; with a learning rate of 0 it stays as it is."""
    if config.learning_rate == 0:
        return Finetuned(start, {})
    setup = _setup(start, task, config, context)
    tuned, _ = setup.train(config, context, out)
    merge_lora(tuned.module)
    return Finetuned(tuned, setup.computed_in)


def freeze_untuned(model: nn.Module, config: Fewshot) -> None:
    """Freeze the parameters that `config.tune` does not select. The classifier is always trained.

    `norm` selects all parameters of normalization layers; `bias` selects all biases (BitFit, Ben Zaken et al. 2022),
    also those of attention's queries and values, but not tables of relative positions; for `lora` see `add_lora`.

    Batch normalization uses the statistics of the batch, and updates its running statistics, if all of its parameters
    are trained: with `all` and `norm` (as in Tent, Wang et al. 2021). With `bias`, `lora` and `freeze_batch_norm` it
    uses its running statistics, which stay.

    Raises:
        RecipeError: the model has no such parameters outside of its classifier.
    """
    if config.tune == "all":
        return
    if config.tune == "lora":
        add_lora(model, config.lora_rank, seed_of(config.seed, "lora"))
        return
    inner = timm_model(model)
    heads = classifier_prefixes(inner)
    tuned = _parameters_of_norms(inner) if config.tune == "norm" else _biases(inner)
    if all(name.startswith(heads) for name in tuned):
        missing = "normalization layer with weights" if config.tune == "norm" else "bias"
        raise RecipeError(
            f"this model has no {missing} to tune",
            got=f"tune: {config.tune}, {type(inner).__name__}",
            expected="tune: all or lora",
        )
    for name, parameter in inner.named_parameters():
        parameter.requires_grad_(name in tuned or name.startswith(heads))


def _setup(start: BuiltModel, task: Task, config: Fewshot, context: Context) -> TrainingSetup:
    support, pool = task.support, task.pool
    num_classes = len(support.classes)
    streams = [TrainingStream(support)]
    if pool is not None:
        streams = [TrainingStream(support, 0.5), TrainingStream(pool, 0.5, labelled=False)]
    streams, loss = sampled(streams, config.sampling), label_loss(config, streams)
    objective = label_objective(num_classes, config.label_smoothing, loss)
    if pool is not None:
        io = IOSpec.for_classifier(start.preprocess, support.classes)
        device, shard = torch.device(context.device), is_asked(context)
        self_teacher = LiveTeacher(copy.deepcopy(start.module), io, support.classes, device, shard=shard)
        objective = distillation_objective(SELF_DISTILLATION, self_teacher, num_classes, config.label_smoothing, loss)
    freeze_untuned(start.module, config)
    learner = ClassifierLearner(start.module, objective, start.preprocess)
    return TrainingSetup(start, learner, support.classes, streams)


def _parameters_of_norms(model: nn.Module) -> set[str]:
    return {
        f"{module_name}.{name}"
        for module_name, module in model.named_modules()
        if isinstance(module, NORMALIZATIONS)
        for name, _ in module.named_parameters(recurse=False)
    }


def _biases(model: nn.Module) -> set[str]:
    last_words = {name: name.rpartition(".")[2] for name, _ in model.named_parameters()}
    return {name for name, word in last_words.items() if word == "bias" or word.endswith("_bias")}
