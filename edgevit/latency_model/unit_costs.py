"""The latency of a graph on a CPU as a sum of unit costs, fitted to the latencies of a few models there.

The costs are those of the arithmetic of each kind of product, of bytes of activations and weights, of elements that
functions, norms, copies and other pointwise operators write, of elements that are rounded to 8 bits, and of a node. A
unit is a multiply-accumulate, a byte, an element or a node. All units of a graph are counted in its kernels
(`kernels.py`), and their costs add up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from edgevit.latency_model.kernels import KernelPlan

Floats = NDArray[np.float64]
Part = Literal["compute", "memory", "launches"]
INT8_BYTES = 1
FLOAT_BYTES = {"float16": 2}  # 4 in all other precisions

# Usual cost of a unit in ns on a core of a fast CPU in float32, in round numbers. The fit moves all of them together to
# the speed of the machine, and then each.
USUAL_NS: Mapping[str, tuple[float, Part]] = {
    "spatial_conv": (0.025, "compute"),
    "pointwise_conv": (0.025, "compute"),
    "grouped_conv": (0.05, "compute"),
    "depthwise_conv": (0.07, "compute"),
    "depthwise_output": (0.3, "compute"),
    "product": (0.025, "compute"),
    "attention": (0.05, "compute"),
    "int8_spatial_conv": (0.008, "compute"),
    "int8_pointwise_conv": (0.008, "compute"),
    "int8_grouped_conv": (0.016, "compute"),
    "int8_depthwise_conv": (0.07, "compute"),
    "int8_product": (0.008, "compute"),
    "function": (1.0, "compute"),
    "norm": (0.5, "compute"),
    "activation_byte": (0.025, "memory"),
    "weight_byte": (0.05, "memory"),
    "copy": (0.3, "memory"),
    "transpose": (0.5, "memory"),
    "pointwise": (0.15, "memory"),
    "rounded": (0.3, "memory"),
    "node": (1000.0, "launches"),
}
UNITS = tuple(USUAL_NS)
PRODUCTS = ("spatial_conv", "pointwise_conv", "grouped_conv", "depthwise_conv", "product", "attention")
MULTIPLIED = {*PRODUCTS, *(f"int8_{product}" for product in PRODUCTS)}
NOISE = 0.1  # usual log error of a prediction
MACHINE_SPREAD = 2.0  # usual log ratio of a machine's speed to the fast CPU's
COST_SPREAD = 1.0  # usual log ratio of a cost to its usual value, at the machine's speed
ONLY_IN_INT8 = (*(unit for unit in UNITS if unit.startswith("int8_")), "rounded")
INT8_SPREAD = 0.7  # usual log ratio of another cost in INT8 files to that in float32


@dataclass(frozen=True)
class MeasuredUnits:
    """A model that was measured.

    Attributes:
        units: the number of each unit, in the order of UNITS; shape (units,).
        p50_ms: of one image.
    """

    name: str
    units: Floats
    p50_ms: float

    @property
    def macs(self) -> float:
        """Multiply-accumulates, which a model has in every precision."""
        return float(sum(count for unit, count in zip(UNITS, self.units, strict=True) if unit in MULTIPLIED))

    def is_form_of(self, other: MeasuredUnits) -> bool:
        """Whether both may be forms of one model, in two precisions."""
        return math.isclose(self.macs, other.macs, rel_tol=1e-6)


def units_of(plan: KernelPlan, batch_size: int = 1, precision: str = "float32") -> Floats:
    """The number of units of a graph in a batch, in the order of UNITS; shape (units,).

    Args:
        precision: of the file, which decides the bytes of what is not quantized.
    """
    counts, float_bytes = dict.fromkeys(UNITS, 0.0), FLOAT_BYTES.get(precision, 4)
    for kernel in plan.kernels:
        width = INT8_BYTES if kernel.is_int8 else float_bytes
        if kernel.kind != "memory":
            in_int8 = f"int8_{kernel.kind}"
            counts[in_int8 if kernel.is_int8 and in_int8 in counts else kernel.kind] += kernel.macs * batch_size
        if kernel.kind == "depthwise_conv":
            counts["depthwise_output"] += kernel.macs * batch_size / max(1, kernel.depth)
        for step, elements in kernel.elements:
            counts[step] += elements * batch_size
        counts["activation_byte"] += width * kernel.activations * batch_size
        counts["weight_byte"] += width * kernel.weights
        counts["node"] += kernel.nodes
    counts["rounded"] = plan.rounded * batch_size
    return np.array([counts[unit] for unit in UNITS])


def fitted_costs(models: Sequence[MeasuredUnits]) -> dict[str, float]:
    """The cost of each unit in ns, in float32.

    Least squares of log(predicted / measured) in usual errors, with the distance of the machine's speed and of each
    cost from their usual values.
    """
    usual = np.log([cost for cost, _ in USUAL_NS.values()])
    speed, *own = _solved(models, usual, _spreads(is_int8=False))
    return dict(zip(UNITS, map(float, np.exp(usual + speed + own)), strict=True))


def fitted_int8_costs(models: Sequence[MeasuredUnits], floats: Sequence[MeasuredUnits]) -> dict[str, float]:
    """The cost of each unit in ns, in INT8 files. The usual costs are those that are fitted in float32.

    The cost of what float32 does not have is usual at the speed of the machine in float32.

    Args:
        models: INT8 files.
        floats: models in float32 on the same target. Without any, the usual costs in float32 are taken.
    """
    costs = fitted_costs(floats) if floats else {unit: cost for unit, (cost, _) in USUAL_NS.items()}
    usual = np.log(list(costs.values()))
    spreads = _spreads(is_int8=True)
    spreads[0] = NOISE if floats else MACHINE_SPREAD
    speed, *own = _solved(models, usual, spreads)
    return dict(zip(UNITS, map(float, np.exp(usual + speed + own)), strict=True))


def cost_errors(units: Sequence[Floats], costs_ns: Mapping[str, float], *, is_int8: bool, new: Floats) -> list[float]:
    """The usual log error of predictions by what a fit does not know of the costs: of left-out models, and of `new`.

    It is that of the fit's normal approximation: the log costs have a covariance, and the error of a sum of costs is by
    the share of each in it. What a model tells of a cost is by the share of this cost in its time.

    Args:
        units: of each measured model.
        new: of a graph that was not measured.

    Returns:
        The error of each measured model by a fit to the others, then that of `new` by the fit to all.
    """
    costs = np.array([costs_ns[unit] for unit in UNITS])
    times = np.array([*units, new]) * costs
    shares = np.insert(times / times.sum(axis=1, keepdims=True), 0, 1.0, axis=1)  # the machine's speed is in all of it
    precisions = shares[:, :, None] * shares[:, None, :] / NOISE**2
    prior = np.diag(_spreads(is_int8=is_int8) ** -2.0)
    known = prior + precisions[:-1].sum(axis=0)
    seen = [known - own for own in precisions[:-1]] + [known]
    return [math.sqrt(share @ np.linalg.solve(without, share)) for share, without in zip(shares, seen, strict=True)]


def _spreads(*, is_int8: bool) -> Floats:
    """The usual log ratios of the machine's speed and of each cost to their usual values; shape (1 + units,)."""
    own = [INT8_SPREAD if is_int8 and unit not in ONLY_IN_INT8 else COST_SPREAD for unit in UNITS]
    return np.array([MACHINE_SPREAD, *own])


def _solved(models: Sequence[MeasuredUnits], usual: Floats, spreads: Floats) -> Floats:
    """The log ratios of the machine's speed and of each cost to their usual values; shape (1 + units,)."""
    units, measured = np.array([model.units for model in models]), np.log([model.p50_ms for model in models])

    def errors(values: Floats) -> Floats:
        predicted = np.log(units @ np.exp(usual + values[0] + values[1:]) * 1e-6)
        return np.concatenate([(predicted - measured) / NOISE, values / spreads])

    solved: Floats = least_squares(errors, np.zeros(len(spreads))).x
    return solved


def predicted_ms(units: Floats, costs_ns: Mapping[str, float]) -> float:
    """The predicted time."""
    return sum(parts_ms(units, costs_ns).values())


def parts_ms(units: Floats, costs_ns: Mapping[str, float]) -> dict[Part, float]:
    """The predicted time by what takes it, in ms."""
    parts: dict[Part, float] = {"compute": 0.0, "memory": 0.0, "launches": 0.0}
    for count, (unit, (_, part)) in zip(units, USUAL_NS.items(), strict=True):
        parts[part] += float(count) * costs_ns[unit] * 1e-6
    return parts


def left_out_ms(models: Sequence[MeasuredUnits], floats: Sequence[MeasuredUnits] | None = None) -> list[float]:
    """The prediction of each model by a fit to all other models, in ms.

    Args:
        floats: for INT8 files, models in float32 on the same target; None for models in float32.
    """
    predicted = []
    for model in models:
        others = [other for other in models if other is not model]
        if floats is None:
            costs = fitted_costs(others)
        else:
            costs = fitted_int8_costs(others, [other for other in floats if not model.is_form_of(other)])
        predicted.append(predicted_ms(model.units, costs))
    return predicted


def interval_factor(ratios: Sequence[float], level: float) -> float:
    """The factor on both sides of a prediction that held a share `level` of left-out models.

    It is the rank ⌈(n + 1) · level⌉ of the n absolute log ratios, and the largest where there are too few. Source: Vovk
    et al. 2005, "Algorithmic Learning in a Random World", conformal prediction.

    Args:
        ratios: predicted over measured.
    """
    errors = sorted(abs(math.log(ratio)) for ratio in ratios)
    rank = min(len(errors), math.ceil((len(errors) + 1) * level))
    return math.exp(errors[rank - 1])
