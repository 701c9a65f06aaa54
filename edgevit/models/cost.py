"""The cost of a model: parameters and multiply-accumulates."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from edgevit.artifacts import Json, Preprocess
from edgevit.models.modes import eval_mode


def cost_of(model: nn.Module, preprocess: Preprocess) -> Json:
    """The metrics that every checkpoint carries: {"params", "macs"}."""
    return {"params": params_of(model), "macs": macs_of(model, preprocess.height, preprocess.width)}


def params_of(model: nn.Module) -> int:
    """The number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def share_left(before: Json, after: Json) -> str:
    """The cost of a model relative to that of another, in words, from the metrics of both."""
    macs, params = (f"{after[cost] / before[cost]:.1%}" for cost in ("macs", "params"))
    return f"{macs} of the MACs, {params} of the parameters"


def macs_of(model: nn.Module, height: int, width: int) -> int:
    """Multiply-accumulates of one image in eval mode: convolutions, matrix products and attention.

    torch's counter counts two FLOPs for each. Element-wise work (activations, norms) is left out, as is customary.
    """
    return macs_by_module(model, height, width)[""]


def macs_by_module(model: nn.Module, height: int, width: int) -> dict[str, int]:
    """Multiply-accumulates of each module that has any, by its path; "" is the whole model."""
    image = torch.zeros(1, 3, height, width, device=next(model.parameters()).device)
    with eval_mode(model), torch.enable_grad(), FlopCounterMode(display=False) as counter:
        model(image)
    root = f"{type(model).__name__}."
    flops = {name: sum(by_operator.values()) for name, by_operator in counter.get_flop_counts().items()}
    by_path = {name.removeprefix(root): count // 2 for name, count in flops.items() if name.startswith(root)}
    return {**by_path, "": int(counter.get_total_flops() // 2)}
