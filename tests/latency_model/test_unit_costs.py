"""Unit costs: what is counted in a graph, and what a fit to some graphs predicts of others."""

from __future__ import annotations

import math

import numpy as np
import onnx.shape_inference
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgevit.graphs.graph import Graph
from edgevit.latency_model.kernels import kernels_of
from edgevit.latency_model.unit_costs import (
    COST_SPREAD,
    MACHINE_SPREAD,
    NOISE,
    ONLY_IN_INT8,
    UNITS,
    USUAL_NS,
    Floats,
    MeasuredUnits,
    cost_errors,
    fitted_costs,
    fitted_int8_costs,
    interval_factor,
    left_out_ms,
    parts_ms,
    predicted_ms,
    units_of,
)
from tests.checking.graphs import model, node


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
    counts = dict(zip(UNITS, units_of(kernels_of(small_graph())), strict=True))
    assert counts["depthwise_conv"] == 3 * 64 * 9
    assert counts["depthwise_output"] == 3 * 64
    assert counts["pointwise_conv"] == 4 * 64 * 3
    assert counts["function"] == 2 * 4 * 64  # Sigmoid and Softmax
    assert counts["transpose"] == 4 * 64
    assert counts["weight_byte"] == 4 * (27 + 12)
    assert counts["node"] == 5
    assert counts["product"] == counts["attention"] == counts["spatial_conv"] == 0


def test_weights_and_activations_of_a_float16_file_have_two_bytes() -> None:
    plan = kernels_of(small_graph())
    whole, half = (dict(zip(UNITS, units_of(plan, precision=one), strict=True)) for one in ("float32", "float16"))
    assert half["weight_byte"] == whole["weight_byte"] / 2
    assert half["activation_byte"] == whole["activation_byte"] / 2
    assert half["function"] == whole["function"]


def test_a_batch_repeats_the_work_and_not_the_weights_nor_the_launches() -> None:
    one, four = (dict(zip(UNITS, units_of(kernels_of(small_graph()), size), strict=True)) for size in (1, 4))
    assert four["pointwise_conv"] == 4 * one["pointwise_conv"]
    assert four["activation_byte"] == 4 * one["activation_byte"]
    assert (four["weight_byte"], four["node"]) == (one["weight_byte"], one["node"])


def test_elements_that_are_rounded_behind_float_operators() -> None:
    """The image is rounded, and the Erf. The convolution between pairs writes integers by itself."""
    constants = {
        "w8": np.ones((4, 3, 1, 1), np.int8), "scale": np.float32(0.1), "zero": np.int8(0),
    }  # fmt: skip
    pair = ("scale", "zero")
    nodes = [
        node("QuantizeLinear", ["image", *pair], "i8"),
        node("DequantizeLinear", ["i8", *pair], "i"),
        node("DequantizeLinear", ["w8", *pair], "w"),
        node("Conv", ["i", "w"], "a"),
        node("QuantizeLinear", ["a", *pair], "a8"),
        node("DequantizeLinear", ["a8", *pair], "b"),
        node("Erf", ["b"], "c"),
        node("QuantizeLinear", ["c", *pair], "c8"),
        node("DequantizeLinear", ["c8", *pair], "logits"),
    ]
    plan = kernels_of(Graph(onnx.shape_inference.infer_shapes(model(nodes, constants, (1, 3, 8, 8), (1, 4, 8, 8)))))
    assert plan.rounded == 3 * 64 + 4 * 64
    assert [kernel.is_int8 for kernel in plan.kernels if kernel.macs] == [True]
    counts = dict(zip(UNITS, units_of(plan), strict=True))
    assert (counts["int8_pointwise_conv"], counts["pointwise_conv"]) == (4 * 64 * 3, 0)
    assert counts["weight_byte"] == 4 * 3
    assert counts["rounded"] == plan.rounded


USUAL = np.array([cost for cost, _ in USUAL_NS.values()])


def networks(count: int, seed: int, costs_ns: Floats) -> list[MeasuredUnits]:
    """Random networks with their exact latencies, under these costs."""
    generator = np.random.default_rng(seed)
    shares = generator.dirichlet(np.full(len(UNITS), 0.5), count)
    times_ms = np.exp(generator.uniform(0, 4, count))
    units = shares * times_ms[:, None] / (costs_ns * 1e-6)
    return [MeasuredUnits(f"n{place}", units[place], float(times_ms[place])) for place in range(count)]


def median_error(models: list[MeasuredUnits], costs: dict[str, float]) -> float:
    return float(np.median([abs(predicted_ms(one.units, costs) / one.p50_ms - 1) for one in models]))


def test_a_fit_predicts_networks_that_it_has_not_seen() -> None:
    """The machine is a sixth as fast as usual, and each cost is off by up to a half. The latencies are exact sums."""
    costs = 6 * USUAL * np.random.default_rng(0).uniform(0.5, 1.5, len(UNITS))
    seen, unseen = networks(16, 1, costs), networks(200, 2, costs)
    assert median_error(unseen, fitted_costs(seen)) < 0.05
    assert median_error(unseen, {unit: cost for unit, (cost, _) in USUAL_NS.items()}) > 0.5  # without a fit


def test_int8_learns_from_the_models_in_float32() -> None:
    """The costs that both share are equal: with few INT8 models, those in float32 help."""
    costs = 6 * USUAL * np.random.default_rng(0).uniform(0.5, 1.5, len(UNITS))
    off = np.array([0.7 if unit in ONLY_IN_INT8 else 1.0 for unit in UNITS])
    floats, seen, unseen = networks(16, 1, costs), networks(8, 2, costs * off), networks(200, 3, costs * off)
    helped, alone = (median_error(unseen, fitted_int8_costs(seen, others)) for others in (floats, []))
    assert helped < 0.05
    assert helped < alone


def test_a_left_out_model_is_predicted_by_a_fit_to_the_others() -> None:
    models = networks(9, 3, USUAL)
    assert left_out_ms(models)[0] == pytest.approx(predicted_ms(models[0].units, fitted_costs(models[1:])))
    floats = [MeasuredUnits(f"float-{place}", one.units, 2 * one.p50_ms) for place, one in enumerate(models)]
    costs = fitted_int8_costs(models[1:], floats[1:])  # the first one's twin is left out too
    assert left_out_ms(models, floats)[0] == pytest.approx(predicted_ms(models[0].units, costs))


def test_the_error_by_unknown_costs_is_that_of_the_normal_approximation() -> None:
    """The reference differentiates the logarithms of the predictions numerically, and inverts the whole Hessian."""
    models = networks(9, 5, USUAL)
    new = np.zeros(len(UNITS))
    new[UNITS.index("attention")] = new[UNITS.index("norm")] = 1e6
    costs = fitted_costs(models)

    def logs(values: Floats) -> Floats:
        scaled = np.array(list(costs.values())) * np.exp(values[0] + values[1:])
        return np.log(np.array([*(one.units for one in models), new]) @ scaled)

    step = 1e-5
    slopes = np.array([(logs(step * one) - logs(-step * one)) / (2 * step) for one in np.eye(1 + len(UNITS))]).T
    prior = np.diag([MACHINE_SPREAD, *[COST_SPREAD] * len(UNITS)])
    found = cost_errors([one.units for one in models], costs, is_int8=False, new=new)
    for left_out, error in enumerate(found):
        others = np.delete(slopes[:-1], left_out, axis=0) if left_out < len(models) else slopes[:-1]
        covariance = np.linalg.inv(np.linalg.inv(prior @ prior) + others.T @ others / NOISE**2)
        assert error == pytest.approx(math.sqrt(slopes[left_out] @ covariance @ slopes[left_out]), rel=1e-4)


def test_shares_of_the_time_add_up() -> None:
    costs = {unit: cost for unit, (cost, _) in USUAL_NS.items()}
    parts = parts_ms(np.ones(len(UNITS)), costs)
    assert sum(parts.values()) == pytest.approx(USUAL.sum() * 1e-6)
    assert parts["launches"] == pytest.approx(1e-3)


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
