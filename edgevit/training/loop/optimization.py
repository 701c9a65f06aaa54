"""Optimizer, learning-rate schedule, freezing and gradient checkpointing, by timm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from timm.models import group_parameters
from timm.optim import create_optimizer_v2, list_optimizers
from timm.optim._param_groups import auto_group_layers
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from edgevit.configs import Training
from edgevit.errors import RecipeError, did_you_mean
from edgevit.models.timm_models import classifier_prefixes, timm_model

SECOND_ORDER = ("adahessian",)


def optimizer_for(model: nn.Module, config: Training, others: Sequence[nn.Parameter] = ()) -> Optimizer:
    """timm's optimizer `config.optimizer` over the model's parameters that are not frozen, and the `others`.

    The others, norms, biases and the parameters that the model lists (position embeddings, tokens) have no weight
    decay. With `layer_decay`, each layer's rate is this factor times the rate of the next layer (Bao et al. 2022,
    BEiT).

    Raises:
        RecipeError: timm has no optimizer of this name, or cannot create it on this machine.
    """
    if config.optimizer in SECOND_ORDER:
        raise RecipeError(
            "this optimizer needs second derivatives, which training does not compute",
            got=config.optimizer,
            expected="a first-order optimizer, such as adamw",
        )
    try:
        optimizer: Optimizer = create_optimizer_v2(
            timm_model(model),
            opt=config.optimizer,
            lr=config.peak_learning_rate,
            weight_decay=config.weight_decay,
            layer_decay=config.layer_decay,
        )
    except (ValueError, AssertionError, ImportError) as error:
        if config.optimizer in map(str, list_optimizers()):
            raise RecipeError(
                f"timm cannot create this optimizer here: {error}",
                got=config.optimizer,
                expected="adamw, or its package",
            ) from None
        raise RecipeError(
            "timm has no such optimizer",
            got=config.optimizer,
            expected="a name such as adamw, sgd, lamb or lion",
            next=did_you_mean(config.optimizer, map(str, list_optimizers())),
        ) from None
    if others:
        optimizer.add_param_group({"params": list(others)})
    return optimizer


def scheduler_for(optimizer: Optimizer, config: Training, total_steps: int, steps_per_epoch: float) -> Scheduler:
    """timm's schedule, counted in steps: `step_update(n)` sets the rates of step n (from 0), in any order of steps.

    The rate rises linearly over the warm-up. A cosine, tanh or poly schedule then falls to 0 at the last step.
    """
    warmup_steps = -(-config.warmup_fraction * total_steps // 1)
    constant = config.schedule == "constant"
    epochs = [epoch * steps_per_epoch for epoch in config.decay_epochs]
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched="step" if constant else config.schedule,
        num_epochs=max(1, total_steps - int(warmup_steps)),
        decay_epochs=epochs[0] if epochs else 1,
        decay_milestones=[round(epoch) for epoch in epochs],
        decay_rate=_decay_rate(config),
        warmup_epochs=int(warmup_steps),
        warmup_lr=config.peak_learning_rate / (warmup_steps + 1),
        warmup_prefix=config.schedule not in ("step", "multistep", "constant"),
        step_on_epochs=False,
        updates_per_epoch=1,
    )
    assert isinstance(scheduler, Scheduler)
    return scheduler


def checkpoint_gradients(model: nn.Module, enable: bool = True) -> None:
    """Gradient checkpointing: each block keeps only its input, and recomputes its activations (Chen et al. 2016).

    Raises:
        RecipeError: timm does not support it for this model.
    """
    inner = timm_model(model)
    try:
        inner.set_grad_checkpointing(enable)  # type: ignore[operator]
    except (AttributeError, AssertionError):
        raise RecipeError(
            "timm has no gradient checkpointing for this model",
            got=f"grad_checkpointing: true, {type(inner).__name__}",
            next="set accumulation to save memory instead",
        ) from None


def _decay_rate(config: Training) -> float:
    """timm's `decay_rate`; for poly it is the power."""
    if config.schedule == "constant":
        return 1.0
    return config.power if config.schedule == "poly" else config.decay_rate


def freeze(model: nn.Module, config: Training) -> list[nn.Module]:
    """Freeze the parameters that `config.freeze` names. Returns the modules to keep in eval mode.

    Layers are counted in timm's groups for layer decay: the stem, then each block, then the classifier. Without
    `config.freeze` no parameter is frozen here, but some may be frozen already. A module is kept in eval mode if all
    its parameters are frozen; batch normalization if any is, or by `config.freeze_batch_norm`. It then keeps its
    running statistics.

    Raises:
        RecipeError: nothing would be left to train.
    """
    inner = timm_model(model)
    if config.freeze is not None:
        _freeze(inner, config.freeze)
    return [
        module
        for module in inner.modules()
        if _is_frozen(module) or (config.freeze_batch_norm and isinstance(module, _BatchNorm))
    ]


def _freeze(inner: nn.Module, what: Literal["backbone"] | int) -> None:
    if what == "backbone":
        heads = classifier_prefixes(inner)
        frozen = {name for name, _ in inner.named_parameters() if not name.startswith(heads)}
    else:
        layers = _layers(inner)
        if what >= len(layers):
            raise RecipeError(
                "nothing would be left to train", got=f"freeze {what}", expected=f"1 to {len(layers) - 1}"
            )
        frozen = {name for layer in layers[:what] for name in layer}
    for name, parameter in inner.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)


def _layers(model: nn.Module) -> list[list[str]]:
    """The parameters of each layer, as timm groups them for layer decay."""
    if hasattr(model, "group_matcher"):
        layer_of: dict[str, int] = group_parameters(model, model.group_matcher(coarse=False), reverse=True)  # type: ignore[operator]
    else:
        layer_of = auto_group_layers(model)  # type: ignore[no-untyped-call]
    return [[name for name, its in layer_of.items() if its == layer] for layer in sorted(set(layer_of.values()))]


def _is_frozen(module: nn.Module) -> bool:
    trained = [parameter.requires_grad for parameter in module.parameters()]
    return bool(trained) and not (all(trained) if isinstance(module, _BatchNorm) else any(trained))
