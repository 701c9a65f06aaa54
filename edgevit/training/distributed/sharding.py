"""Sharded weights (FSDP): each rank stores a shard of every tensor and gathers the rest while it computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from edgevit.configs import Training
from edgevit.context import Context
from edgevit.errors import RecipeError, first_line
from edgevit.models.cost import params_of
from edgevit.models.timm_models import timm_model
from edgevit.training.distributed import processes

NOT_IN_PARTS = "mixed torch.Tensor and DTensor"  # torch's message for a weight read outside its module's forward
LEAST_SHARE = 0.01  # of the model's parameters; a smaller module is gathered together with the module around it
SEQUENCES = (nn.Sequential, nn.ModuleList)
ENTRANCES = ("forward_features", "forward_head", "forward_intermediates")
# Optimizers tested to train as on one process. Other optimizers need whole tensors, and would fail or hang.
OPTIMIZERS = (
    *("adabelief", "adadelta", "adagrad", "adam", "adamax", "adamc", "adamw", "adopt", "lamb", "lambc", "larc", "lars"),
    *("lion", "momentum", "nadam", "nadamw", "radam", "rmsprop", "sgd"),
)


def is_asked(context: Context) -> bool:
    """Whether the weights are sharded: `context.shard` with more than one rank."""
    return context.shard and processes.count() > 1


def shard(model: nn.Module, device: torch.device) -> None:
    """Shard the model's weights over the ranks, in place, on the device (FSDP2). Calls of the model do not change.

    All ranks have to call it, and every forward pass then needs all ranks. This is ZeRO stage 3 (Rajbhandari et al.
    2020), by torch's `fully_shard`. Each of the model's `units` is gathered separately. Weights outside the units are
    gathered first and stay gathered until the backward pass ends. The model has to be equal on all ranks.

    Raises:
        RecipeError: torch cannot shard this model's weights.
    """
    mesh = init_device_mesh(device.type, (processes.count(),))
    try:
        for unit in [*units(model), model]:
            fully_shard(unit, mesh=mesh)
    except (ValueError, TypeError) as error:  # scalar parameters, or parameters that two units share
        raise cannot_shard(model, error) from None


def units(model: nn.Module) -> list[nn.Module]:
    """The blocks and stages with at least `LEAST_SHARE` of the model's parameters; inner modules before outer modules.

    They are the elements of the model's sequences: `Sequential`, `ModuleList`, or a module whose children are all of
    one class. A `Sequential` or `ModuleList` is no unit itself.
    """
    least = LEAST_SHARE * params_of(model)
    elements = [element for sequence in model.modules() if _is_sequence(sequence) for element in sequence.children()]
    large = {id(element) for element in elements if type(element) not in SEQUENCES and params_of(element) >= least}
    return [module for module in reversed(list(model.modules())) if id(module) in large]


def shard_teacher(model: nn.Module, device: torch.device) -> None:
    """As `shard`, also for calls of timm's feature methods (`ENTRANCES`)."""
    inner = timm_model(model)
    shard(inner, device)
    for name in ENTRANCES:
        if hasattr(inner, name):
            register_fsdp_forward_method(inner, name)


def gathered(state: Any, keep: bool = True) -> Any:
    """A nested state with each sharded tensor gathered on the CPU (None if not `keep`); other values are unchanged.

    All ranks have to call it.
    """
    if isinstance(state, Mapping):
        return {name: gathered(value, keep) for name, value in state.items()}
    if isinstance(state, (list, tuple)):
        return [gathered(value, keep) for value in state]
    if not isinstance(state, DTensor):
        return state
    together = state.full_tensor()
    return together.cpu() if keep else None


def load(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load whole tensors into a module, which may be sharded: each rank takes its shard."""
    own = module.state_dict()
    module.load_state_dict(
        {name: _part_of(value, own[name]) if name in own else value for name, value in state.items()}
    )


def load_optimizer(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Load whole tensors into an optimizer's state: each rank takes the shard that matches its parameter's shard."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    own = {
        index: {name: _part_of(value, parameters[index]) for name, value in kept.items()}
        for index, kept in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": own})


def local(tensor: Tensor) -> Tensor:
    """This rank's shard of a tensor; the whole tensor if it is not sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def check_can_shard(config: Training) -> None:
    """Raise RecipeError if an option does not work with sharded weights."""
    if config.optimizer not in OPTIMIZERS:
        raise _refusal(config, "optimizer", f"one of {', '.join(OPTIMIZERS)}")
    if config.precision == "float16":
        raise _refusal(config, "precision", "bfloat16 or float32")
    for option in ("compile", "channels_last"):
        if getattr(config, option):
            raise _refusal(config, option, f"{option}: false")


def cannot_shard(model: nn.Module, error: Exception) -> RecipeError:
    """The error for a model that torch cannot shard, with torch's reason."""
    return RecipeError(
        f"the weights of this model cannot be sharded: {first_line(error)}",
        got=type(timm_model(model)).__name__,
        next="leave --shard out",
    )


def _refusal(config: Training, option: str, expected: str) -> RecipeError:
    return RecipeError(
        f"'{option}' does not go with --shard",
        where=f"stage '{config.id}'",
        got=getattr(config, option),
        expected=expected,
        next="or leave --shard out",
    )


def _is_sequence(module: nn.Module) -> bool:
    parts = list(module.children())
    alike = len(parts) > 1 and len({type(part) for part in parts}) == 1
    return alike or isinstance(module, SEQUENCES)


def _part_of(value: Any, like: Any) -> Any:
    """This rank's shard of a whole tensor, placed as the sharded tensor `like` of the same shape."""
    if not isinstance(like, DTensor) or not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    on_device = value.to(like.device)
    return distribute_tensor(on_device, like.device_mesh, like.placements, src_data_rank=None)
