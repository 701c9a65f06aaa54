"""Weights in parts: each rank keeps its part of every tensor, and borrows the rest while it computes (FSDP)."""

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

NOT_IN_PARTS = "mixed torch.Tensor and DTensor"  # torch's words where a weight is read beside its module's forward
LEAST_SHARE = 0.01  # of the parameters: what is smaller is gathered together with what surrounds it
SEQUENCES = (nn.Sequential, nn.ModuleList)
ENTRANCES = ("forward_features", "forward_head", "forward_intermediates")
# Those that train as on one process: each was tried. Others look at whole tensors, and would fail or wait for ever.
OPTIMIZERS = (
    *("adabelief", "adadelta", "adagrad", "adam", "adamax", "adamc", "adamw", "adopt", "lamb", "lambc", "larc", "lars"),
    *("lion", "momentum", "nadam", "nadamw", "radam", "rmsprop", "sgd"),
)


def is_asked(context: Context) -> bool:
    """Whether this process is one of several that share the weights out."""
    return context.shard and processes.count() > 1


def shard(model: nn.Module, device: torch.device) -> None:
    """Leave this rank its part of the model's weights, on the device; what calls the model sees no difference.

    Every rank has to call it, and every forward pass then needs all of them. ZeRO's third stage (Rajbhandari et al.
    2020), by torch's `fully_shard`. Each of the model's `units` is gathered for itself; what is in none of them is
    gathered first, and stays so until the backward pass ends. The model has to be the same on every rank.

    Raises:
        RecipeError: torch cannot share out this model's weights.
    """
    mesh = init_device_mesh(device.type, (processes.count(),))
    try:
        for unit in [*units(model), model]:
            fully_shard(unit, mesh=mesh)
    except (ValueError, TypeError) as error:  # scalar parameters, or some that two units share
        raise cannot_shard(model, error) from None


def units(model: nn.Module) -> list[nn.Module]:
    """The blocks and stages that have a hundredth of the parameters or more, inner ones before those that hold them.

    They are the elements of its sequences: `Sequential`, `ModuleList`, or a module whose parts are all of one class. A
    bare sequence among them is none itself.
    """
    least = LEAST_SHARE * params_of(model)
    elements = [element for sequence in model.modules() if _is_sequence(sequence) for element in sequence.children()]
    large = {id(element) for element in elements if type(element) not in SEQUENCES and params_of(element) >= least}
    return [module for module in reversed(list(model.modules())) if id(module) in large]


def shard_teacher(model: nn.Module, device: torch.device) -> None:
    """The same for a model that is also asked for its features, by timm's methods."""
    inner = timm_model(model)
    shard(inner, device)
    for name in ENTRANCES:
        if hasattr(inner, name):
            register_fsdp_forward_method(inner, name)


def gathered(state: Any, keep: bool = True) -> Any:
    """A nested state in which tensors in parts are whole, on the CPU, or None where not to `keep`; the rest as it is.

    All ranks call it.
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
    """The module with these whole tensors, of which each rank takes its part."""
    own = module.state_dict()
    module.load_state_dict(
        {name: _part_of(value, own[name]) if name in own else value for name, value in state.items()}
    )


def load_optimizer(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """The same for an optimizer, whose tensors are shaped as their parameters are."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    own = {
        index: {name: _part_of(value, parameters[index]) for name, value in kept.items()}
        for index, kept in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": own})


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor, or all of one that is not in parts."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def check_can_shard(config: Training) -> None:
    """Raises RecipeError where the options ask for what weights in parts do not allow."""
    if config.optimizer not in OPTIMIZERS:
        raise _refusal(config, "optimizer", f"one of {', '.join(OPTIMIZERS)}")
    if config.precision == "float16":
        raise _refusal(config, "precision", "bfloat16 or float32")
    for option in ("compile", "channels_last"):
        if getattr(config, option):
            raise _refusal(config, option, f"{option}: false")


def cannot_shard(model: nn.Module, error: Exception) -> RecipeError:
    """What torch says of a model whose weights it cannot share out."""
    return RecipeError(
        f"the weights of this model cannot be shared out: {first_line(error)}",
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
    """This rank's part of a whole tensor, as another of that shape is in parts."""
    if not isinstance(like, DTensor) or not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    on_device = value.to(like.device)
    return distribute_tensor(on_device, like.device_mesh, like.placements, src_data_rank=None)
