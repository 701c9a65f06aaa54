"""The latency of a graph on a CPU as a sum of unit costs, fitted to the latencies of a few models there.

The costs are those of the arithmetic of each kind of product, of bytes of activations and weights, of elements that
functions, norms, copies and other pointwise operators write, and of a node. A unit is a multiply-accumulate, a byte, an
element or a node. All units of a graph are counted in its kernels (`kernels.py`), and their costs add up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from edgevit.latency_model.kernels import Kernel

Floats = NDArray[np.float64]
Part = Literal["compute", "memory", "launches"]
BYTES = 4

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
    "function": (1.0, "compute"),
    "norm": (0.5, "compute"),
    "activation_byte": (0.025, "memory"),
    "weight_byte": (0.05, "memory"),
    "copy": (0.3, "memory"),
    "transpose": (0.5, "memory"),
    "pointwise": (0.15, "memory"),
    "node": (1000.0, "launches"),
}
UNITS = tuple(USUAL_NS)
NOISE = 0.1  # usual log error of a prediction
MACHINE_SPREAD = 2.0  # usual log ratio of a machine's speed to the fast CPU's
COST_SPREAD = 1.0  # usual log ratio of a cost to its usual value, at the machine's speed


def units_of(kernels: Sequence[Kernel], batch_size: int = 1) -> Floats:
    """The number of units of a graph in a batch, in the order of UNITS; shape (units,)."""
    counts = dict.fromkeys(UNITS, 0.0)
    for kernel in kernels:
        if kernel.kind != "memory":
            counts[kernel.kind] += kernel.macs * batch_size
        if kernel.kind == "depthwise_conv":
            counts["depthwise_output"] += kernel.macs * batch_size / max(1, kernel.depth)
        for step, elements in kernel.elements:
            counts[step] += elements * batch_size
        counts["activation_byte"] += BYTES * kernel.activations * batch_size
        counts["weight_byte"] += BYTES * kernel.weights
        counts["node"] += kernel.nodes
    return np.array([counts[unit] for unit in UNITS])


def fitted_costs(units: Floats, latencies_ms: Sequence[float]) -> dict[str, float]:
    """The cost of each unit in ns.

    Least squares of log(predicted / measured) in usual errors, with the distance of the machine's speed and of each
    cost from their usual values.

    Args:
        units: of each model, shape (models, units).
        latencies_ms: measured, of each model.
    """
    measured, usual = np.log(latencies_ms), np.log([cost for cost, _ in USUAL_NS.values()])

    def errors(values: Floats) -> Floats:
        speed, own = values[0], values[1:]
        predicted = np.log(units @ np.exp(usual + speed + own) * 1e-6)
        return np.concatenate([(predicted - measured) / NOISE, [speed / MACHINE_SPREAD], own / COST_SPREAD])

    solved = least_squares(errors, np.zeros(1 + len(UNITS))).x
    return dict(zip(UNITS, map(float, np.exp(usual + solved[0] + solved[1:])), strict=True))


def parts_ms(units: Floats, costs_ns: Mapping[str, float]) -> dict[Part, float]:
    """The predicted time by what takes it, in ms."""
    parts: dict[Part, float] = {"compute": 0.0, "memory": 0.0, "launches": 0.0}
    for count, (unit, (_, part)) in zip(units, USUAL_NS.items(), strict=True):
        parts[part] += float(count) * costs_ns[unit] * 1e-6
    return parts


def left_out_ms(units: Floats, latencies_ms: Sequence[float]) -> list[float]:
    """The prediction of each model by a fit to all other models, in ms."""
    times = np.asarray(latencies_ms)
    predicted = []
    for place in range(len(times)):
        others = np.arange(len(times)) != place
        costs = fitted_costs(units[others], times[others].tolist())
        predicted.append(sum(parts_ms(units[place], costs).values()))
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
