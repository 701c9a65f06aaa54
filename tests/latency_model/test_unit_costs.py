"""Unit costs: what is counted in a graph, and what a fit to some graphs predicts of others."""

from __future__ import annotations

import math

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgevit.graphs.graph import Graph
from edgevit.latency_model.kernels import kernels_of
from edgevit.latency_model.unit_costs import (
    UNITS,
    USUAL_NS,
    Floats,
    fitted_costs,
    interval_factor,
    left_out_ms,
    parts_ms,
    units_of,
)


def small_graph() -> Graph:
    """image (1, 3, 8, 8) → depthwise 3 × 3 → pointwise to 4 channels → Sigmoid → Transpose → Softmax."""
    weights = {"dw": np.ones((3, 1, 3, 3), np.float32), "pw": np.ones((4, 3, 1, 1), np.float32)}
    nodes = [
        helper.make_node("Conv", ["image", "dw"], ["a"], pads=[1, 1, 1, 1], group=3),
        helper.make_node("Conv", ["a", "pw"], ["b"]),
        helper.make_node("Sigmoid", ["b"], ["c"]),
        helper.make_node("Transpose", ["c"], ["d"], perm=[0, 2, 3, 1]),
        helper.make_node("Softmax", ["d"], ["logits"]),
    ]
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    shapes = {"a": (1, 3, 8, 8), "b": (1, 4, 8, 8), "c": (1, 4, 8, 8), "d": (1, 8, 8, 4)}
    graph = helper.make_graph(
        nodes, "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 8, 8, 4])],
        tensors,
        value_info=[helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
    )  # fmt: skip
    return Graph(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def test_the_units_of_a_graph_are_those_counted_by_hand() -> None:
    counts = dict(zip(UNITS, units_of(kernels_of(small_graph()).kernels), strict=True))
    assert counts["depthwise_conv"] == 3 * 64 * 9
    assert counts["depthwise_output"] == 3 * 64
    assert counts["pointwise_conv"] == 4 * 64 * 3
    assert counts["function"] == 2 * 4 * 64  # Sigmoid and Softmax
    assert counts["transpose"] == 4 * 64
    assert counts["weight_byte"] == 4 * (27 + 12)
    assert counts["node"] == 5
    assert counts["product"] == counts["attention"] == counts["spatial_conv"] == 0


def test_a_batch_repeats_the_work_and_not_the_weights_nor_the_launches() -> None:
    one, four = (dict(zip(UNITS, units_of(kernels_of(small_graph()).kernels, size), strict=True)) for size in (1, 4))
    assert four["pointwise_conv"] == 4 * one["pointwise_conv"]
    assert four["activation_byte"] == 4 * one["activation_byte"]
    assert (four["weight_byte"], four["node"]) == (one["weight_byte"], one["node"])


def networks(count: int, seed: int) -> tuple[Floats, list[float]]:
    """Random networks, and their latencies on a machine a sixth as fast, where each cost is off by up to a half."""
    generator = np.random.default_rng(seed)
    costs = (
        6 * np.array([cost for cost, _ in USUAL_NS.values()]) * np.random.default_rng(0).uniform(0.5, 1.5, len(UNITS))
    )
    shares = generator.dirichlet(np.full(len(UNITS), 0.5), count)
    times_ms = np.exp(generator.uniform(0, 4, count))
    return shares * times_ms[:, None] / (costs * 1e-6), times_ms.tolist()


def test_a_fit_predicts_networks_that_it_has_not_seen() -> None:
    """The true latencies are sums of costs, so the reference is exact."""
    units, times_ms = networks(16, seed=1)
    costs = fitted_costs(units, times_ms)
    unseen, truth = networks(200, seed=2)
    predicted = [sum(parts_ms(row, costs).values()) for row in unseen]
    errors = np.abs(np.array(predicted) / truth - 1)
    assert np.median(errors) < 0.05
    usual = {unit: cost for unit, (cost, _) in USUAL_NS.items()}
    blind = np.array([sum(parts_ms(row, usual).values()) for row in unseen])
    assert np.median(np.abs(blind / truth - 1)) > 0.5  # without a fit it is far off


def test_a_left_out_model_is_predicted_by_a_fit_to_the_others() -> None:
    units, times_ms = networks(9, seed=3)
    left_out = left_out_ms(units, times_ms)
    costs = fitted_costs(units[1:], times_ms[1:])
    assert left_out[0] == pytest.approx(sum(parts_ms(units[0], costs).values()))


def test_the_interval_is_the_rank_of_conformal_prediction() -> None:
    """Of 19 errors the 18th holds 90%; of 9 the 9th; of 5 the largest has to do."""
    ratios = [math.exp((-1) ** place * 0.01 * place) for place in range(1, 20)]
    assert interval_factor(ratios, 0.9) == pytest.approx(math.exp(0.18))
    assert interval_factor(ratios[:9], 0.9) == pytest.approx(math.exp(0.09))
    assert interval_factor(ratios[:5], 0.9) == pytest.approx(math.exp(0.05))


def test_intervals_cover_what_they_say() -> None:
    generator = np.random.default_rng(0)
    covered = []
    for _ in range(2000):
        *seen, new = np.exp(0.2 * generator.standard_normal(20))
        factor = interval_factor(seen, 0.9)
        covered.append(1 / factor <= new <= factor)
    assert 0.88 <= np.mean(covered) <= 0.92
