"""Fine-tuning on a small support set, of all weights or of a few."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from timm.layers.norm import RmsNorm, RmsNorm2d, SimpleNorm, SimpleNorm2d
from torch import nn

from edgevit.artifacts import IOSpec
from edgevit.configs import CrossEntropy, Fewshot, SoftDistillation
from edgevit.context import Context
from edgevit.errors import RecipeError
from edgevit.fewshot.adapt import Task, adapt_head, check_support
from edgevit.models.creation import BuiltModel
from edgevit.models.lora import add_lora, merge_lora
from edgevit.models.timm_models import classifier_prefixes, timm_model
from edgevit.training.distillation.teachers import LiveTeacher
from edgevit.training.distributed.sharding import is_asked
from edgevit.training.loop.batches import TrainingStream, seed_of
from edgevit.training.loop.setup import TrainingSetup
from edgevit.training.objectives import distillation_objective, label_objective

# What keeps fine-tuning on a few images from forgetting: as much weight as the labels have.
SELF_DISTILLATION = (CrossEntropy(weight=0.5), SoftDistillation(weight=0.5))
NORMALISATIONS = (
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.modules.batchnorm._BatchNorm,
    RmsNorm,
    RmsNorm2d,
    SimpleNorm,
    SimpleNorm2d,
)


def finetune(checkpoint: BuiltModel, task: Task, config: Fewshot, context: Context, out: Path) -> BuiltModel:
    """The model trained on the support; on the pool, it must go on saying what it says now."""
    start = with_classes_of_task(checkpoint, task, config, context)
    return finetuned(start, task, config, context, out)


def finetuning(checkpoint: BuiltModel, task: Task, config: Fewshot, context: Context) -> TrainingSetup:
    """What `finetune` trains."""
    return _setup(with_classes_of_task(checkpoint, task, config, context), task, config, context)


def with_classes_of_task(checkpoint: BuiltModel, task: Task, config: Fewshot, context: Context) -> BuiltModel:
    """Where fine-tuning starts: where the classes are new, from a linear head (LP-FT, Kumar et al. 2022)."""
    check_support(task.support)
    if checkpoint.classes == task.support.classes:
        return checkpoint
    return adapt_head(checkpoint, task, config, context)


def finetuned(start: BuiltModel, task: Task, config: Fewshot, context: Context, out: Path) -> BuiltModel:
    """`start`, trained, which uses it up; as it is where the learning rate is 0."""
    if config.learning_rate == 0:
        return start
    tuned, _ = _setup(start, task, config, context).train(config, context, out)
    merge_lora(tuned.module)
    return tuned


def choose_what_is_trained(model: nn.Module, config: Fewshot) -> None:
    """Freeze what `config.tune` does not name; the classifier is always trained.

    norm: all parameters of normalisation layers. bias: all biases (BitFit, Ben Zaken et al. 2022), those of attention's
    queries and values too, but no tables of relative positions. lora: see `add_lora`.

    Batch normalisation goes by the batch, and updates its running statistics, where all of its parameters are trained:
    with norm too (as in Tent, Wang et al. 2021). With bias and lora it goes by its running statistics, which stay.

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
        what = "normalisation layer with weights" if config.tune == "norm" else "bias"
        raise RecipeError(
            f"this model has no {what} to tune",
            got=f"tune: {config.tune}, {type(inner).__name__}",
            expected="tune: all or lora",
        )
    for name, parameter in inner.named_parameters():
        parameter.requires_grad_(name in tuned or name.startswith(heads))


def _setup(start: BuiltModel, task: Task, config: Fewshot, context: Context) -> TrainingSetup:
    support, pool = task.support, task.pool
    num_classes = len(support.classes)
    streams = [TrainingStream(support)]
    objective = label_objective(num_classes, config.label_smoothing)
    if pool is not None:
        streams = [TrainingStream(support, 0.5), TrainingStream(pool, 0.5, labelled=False)]
        io = IOSpec.for_classifier(start.preprocess, support.classes)
        device, shard = torch.device(context.device), is_asked(context)
        itself = LiveTeacher(copy.deepcopy(start.module), io, support.classes, device, shard=shard)
        objective = distillation_objective(SELF_DISTILLATION, itself, num_classes, config.label_smoothing)
    choose_what_is_trained(start.module, config)
    return TrainingSetup(start, start.module, support.classes, objective, streams)


def _parameters_of_norms(model: nn.Module) -> set[str]:
    return {
        f"{module_name}.{name}"
        for module_name, module in model.named_modules()
        if isinstance(module, NORMALISATIONS)
        for name, _ in module.named_parameters(recurse=False)
    }


def _biases(model: nn.Module) -> set[str]:
    last_words = {name: name.rpartition(".")[2] for name, _ in model.named_parameters()}
    return {name for name, word in last_words.items() if word == "bias" or word.endswith("_bias")}
