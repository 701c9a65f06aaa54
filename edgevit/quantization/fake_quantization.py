"""Fake quantization: a float module whose layers round as the Q/DQ graph of `calibrator: trained` does."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from onnxruntime.quantization.quant_utils import compute_scale_zp, get_qmin_qmax_for_qType
from torch import Tensor, nn
from torch.nn.utils import parametrize

from edgevit.models.ranges import LayerRanges, Range
from edgevit.models.timm_models import timm_model
from edgevit.quantization.dialects import Integers
from edgevit.quantization.ptq import RoundedLayer

INPUT, OUTPUT = "input_quantizer", "output_quantizer"


class ActivationQuantizer(nn.Module):
    """Rounds a tensor of any shape to 8-bit integers and back, as a Q/DQ pair does: (clamp(⌊v/s⌉ + z) − z)·s.

    The gradient with respect to v passes where v is within the range, and is 0 elsewhere. The gradient with respect to
    s is that of Esser et al. 2020 (LSQ), eq. 3, times 1/√(N·Q_P): N is the number of values in an image, Q_P the number
    of integers above zero. The zero point stays as it was calibrated.

    Args:
        bounds: the calibrated range. It gives scale and zero point as in the dialect's writer.
        integers: those of the tensor in the dialect.
        learned: the scale is a parameter, and so the range is trained.
    """

    scale: Tensor

    def __init__(self, bounds: Range, integers: Integers, learned: bool) -> None:
        super().__init__()
        self.bounds, self.learned = bounds, learned
        self.symmetric = integers.symmetric
        tensor_type = integers.type.tensor_type
        spread = get_qmin_qmax_for_qType(tensor_type, symmetric=self.symmetric)
        self._spread = int(spread[1]) - int(spread[0])
        low, high = (np.float32(bound) for bound in bounds)
        zero_point, scale = compute_scale_zp(low, high, *spread, symmetric=self.symmetric)
        lowest, highest = get_qmin_qmax_for_qType(tensor_type)
        self._below, self._above = int(lowest) - int(zero_point), int(highest) - int(zero_point)
        calibrated_scale = torch.tensor(float(scale))
        if learned:
            self.scale = nn.Parameter(calibrated_scale)
        else:
            self.register_buffer("scale", calibrated_scale)

    def forward(self, values: Tensor) -> Tensor:
        gradient_factor = 1 / math.sqrt(values[0].numel() * max(1, self._above))
        rounded: Tensor = _Rounding.apply(values.float(), self.scale.abs(), self._below, self._above, gradient_factor)
        return rounded.to(values.dtype)

    @property
    def range(self) -> Range:
        """The range for which the writer computes this scale and zero point."""
        if not self.learned:
            return self.bounds
        scale = float(self.scale.detach().abs())
        if self.symmetric:
            return -self._spread / 2 * scale, self._spread / 2 * scale
        return self._below * scale, self._above * scale


class _Rounding(torch.autograd.Function):
    """clamp(⌊v/s⌉, below, above)·s, with halves to even, and its gradients. Only v/s is kept for them."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, scale: Tensor, below: int, above: int, gradient_factor: float) -> Tensor:
        levels = values / scale
        ctx.save_for_backward(levels)
        ctx.below, ctx.above, ctx.gradient_factor = below, above, gradient_factor
        return levels.round().clamp_(below, above).mul_(scale)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        (levels,) = ctx.saved_tensors
        within = (levels >= ctx.below) & (levels <= ctx.above)
        scale_gradient = None
        if ctx.needs_input_grad[1]:
            change = levels.round().clamp_(ctx.below, ctx.above).sub_(levels * within)
            scale_gradient = change.mul_(upstream).sum() * ctx.gradient_factor
        return upstream * within, scale_gradient, None, None, None


class WeightQuantizer(nn.Module):
    """Rounds a weight (outputs, …) to −L..L times one scale per output, max|w|/L, to the nearest, as the writer does.

    Gradients pass straight through.

    Args:
        largest: L, `Dialect.largest_weight`.
    """

    def __init__(self, largest: int) -> None:
        super().__init__()
        self._largest = largest

    def forward(self, weight: Tensor) -> Tensor:
        values = weight.detach()
        largest = values.abs().flatten(1).amax(1).reshape(-1, *[1] * (weight.ndim - 1))
        scale = (largest.double() / self._largest).to(weight.dtype)
        scale = torch.where(scale < torch.finfo(weight.dtype).tiny, torch.ones_like(scale), scale)
        return weight + ((values / scale).round() * scale - values)


@dataclass(frozen=True)
class FakeQuantization:
    """The layers to round, by their paths in the timm model, and the ranges and integers of tensors, by their names."""

    layers: Mapping[str, RoundedLayer]
    ranges: Mapping[str, Range]
    integers: Mapping[str, Integers]
    learned: bool
    largest_weight: int

    def apply(self, module: nn.Module, images: Tensor) -> list[str]:
        """Make a module's layers round their inputs, their weights and, as in the graph, their outputs.

        A tensor that leaves one layer and enters another is rounded once; both layers hold one quantizer. A tensor that
        other nodes read too is rounded after the submodule that makes it, so that these nodes read rounded values as in
        the graph.

        Args:
            images: (N, 3, H, W), for a forward pass that shows which submodule makes each tensor.

        Returns:
            The layers whose input other nodes read unrounded, because no submodule makes it.
        """
        makers, unmade = _makers_of_inputs(timm_model(module), module, images), list[str]()
        quantizers = {
            name: ActivationQuantizer(self.ranges[name], self.integers[name], self.learned)
            for layer in self.layers.values()
            for name in (layer.input, layer.rounded_output)
            if name is not None
        }
        rounded_outputs = {layer.rounded_output for layer in self.layers.values()}
        inner = timm_model(module)
        for path, tensors in self.layers.items():
            layer = inner.get_submodule(path)
            parametrize.register_parametrization(layer, "weight", WeightQuantizer(self.largest_weight))
            layer.add_module(INPUT, quantizers[tensors.input])
            if tensors.rounded_output is not None:
                _round_after(layer, quantizers[tensors.rounded_output])
            if tensors.input in rounded_outputs:
                continue
            if tensors.shared and path in makers:
                _round_after(inner.get_submodule(makers[path]), quantizers[tensors.input])
                continue
            layer.register_forward_pre_hook(_round_input)
            if tensors.shared:
                unmade.append(path)
        return unmade


def load_trained(trained: nn.Module, module: nn.Module) -> dict[str, LayerRanges]:
    """Load the weights of a model trained under fake quantization into a float module; return the layers' ranges."""
    inner = timm_model(trained)
    state = {
        key.replace("parametrizations.weight.original", "weight"): value
        for key, value in inner.state_dict().items()
        if not {INPUT, OUTPUT} & set(key.split("."))
    }
    timm_model(module).load_state_dict(state)
    return {
        path: LayerRanges(
            input=layer.get_submodule(INPUT).range,
            output=layer.get_submodule(OUTPUT).range if hasattr(layer, OUTPUT) else None,
        )
        for path, layer in inner.named_modules()
        if hasattr(layer, INPUT)
    }


@torch.no_grad()
def _makers_of_inputs(inner: nn.Module, module: nn.Module, images: Tensor) -> dict[str, str]:
    """The path of the submodule whose output object enters a layer, by the layer's path.

    If several submodules pass on one object, the first counts. A submodule that works in place makes its input anew.
    Submodules that are called more than once are left out.
    """
    maker_of: dict[int, str] = {}
    outputs: list[object] = []  # kept, so that no two have the same id
    calls: Counter[str] = Counter()
    makers: dict[str, str] = {}

    def after(child: nn.Module, output: object, path: str) -> None:
        calls[path] += 1
        outputs.append(output)
        if getattr(child, "inplace", False):
            maker_of[id(output)] = path
        maker_of.setdefault(id(output), path)

    def before(inputs: tuple[object, ...], path: str) -> None:
        if inputs and id(inputs[0]) in maker_of:
            makers[path] = maker_of[id(inputs[0])]

    hooks = []
    for path, child in inner.named_modules():
        hooks.append(child.register_forward_hook(lambda child, _, output, path=path: after(child, output, path)))
        hooks.append(child.register_forward_pre_hook(lambda _, inputs, path=path: before(inputs, path)))
    try:
        module(images)
    finally:
        for hook in hooks:
            hook.remove()
    return {path: maker for path, maker in makers.items() if maker and calls[maker] == 1}


def _round_after(module: nn.Module, quantizer: ActivationQuantizer) -> None:
    if not hasattr(module, OUTPUT):
        module.add_module(OUTPUT, quantizer)
        module.register_forward_hook(_round_output)


def _round_input(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    quantizer: nn.Module = layer.input_quantizer  # type: ignore[assignment]
    return quantizer(inputs[0]), *inputs[1:]


def _round_output(layer: nn.Module, _: object, output: Tensor) -> Tensor:
    rounded: Tensor = layer.output_quantizer(output)  # type: ignore[operator]
    return rounded
