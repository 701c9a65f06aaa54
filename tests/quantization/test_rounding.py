"""Rounding that keeps sums: errors of kernels and channels cancel, by the fewest changes, in every dialect's file."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper

from edgevit.configs import QuantizedRuntime
from edgevit.quantization import CalibratedModel, calibrated
from edgevit.quantization.rounding import integers_keeping_sums, with_kept_sums
from edgevit.runtimes.parity import sqnr_db
from tests.checking.graphs import model as graph_of
from tests.quantization.test_ptq import outputs_of

SHAPES = [(6, 1, 3, 3), (5, 8, 3, 3), (4, 16, 1, 1), (3, 2, 5, 1), (2, 3, 1, 1), (7, 1, 1, 1), (2, 4, 7)]
CHANNELS = 16  # of each layer: TensorRT takes multiples of 8, and matrices of 16 × 16


def drawn(shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    """Weights with a scale of its own for each channel, from 1e-4 to 10."""
    random = np.random.default_rng(seed)
    weights = random.standard_t(3, shape) * 10 ** random.uniform(-4, 1, (shape[0], *[1] * (len(shape) - 1)))
    return weights.astype(np.float32)


def errors_of(weights: NDArray[np.float32], largest: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Integers and their errors, in steps, as (outputs, inputs, taps)."""
    integers, scales = integers_keeping_sums(weights, largest)
    errors = integers - weights.astype(np.float64) / scales
    return integers.reshape(*weights.shape[:2], -1), errors.reshape(*weights.shape[:2], -1)


@pytest.mark.parametrize("largest", [127, 64])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(5))
def test_errors_of_kernels_and_channels_cancel(shape: tuple[int, ...], largest: int, seed: int) -> None:
    weights = drawn(shape, seed)
    integers, errors = errors_of(weights, largest)
    assert np.all(np.abs(errors) < 1), "an integer beside the weight"
    assert np.all(np.abs(errors.sum(axis=(1, 2))) <= 0.5 + 1e-9)
    assert np.all(np.abs(errors.sum(axis=2)) <= 1 + 1e-9)
    assert np.all(np.abs(integers).max(axis=(1, 2)) == largest), "the scale is that of the largest weight"


@pytest.mark.parametrize("seed", range(20))
def test_of_all_roundings_that_keep_the_sum_of_a_kernel_it_has_the_least_error(seed: int) -> None:
    weights = drawn((1, 1, 3, 3), seed)
    _, errors = errors_of(weights, 127)
    levels = weights.astype(np.float64).reshape(-1) / (np.abs(weights).max().astype(np.float64) / 127)
    below = np.floor(levels)
    every = below + np.array(list(itertools.product((0, 1), repeat=9))) - levels
    kept = every[np.abs(every.sum(axis=1)) <= 0.5]
    assert np.sum(errors**2) == pytest.approx(np.min(np.sum(kept**2, axis=1)), rel=1e-4)


def test_integers_and_zeros_stay() -> None:
    integers = np.random.default_rng(0).integers(-127, 128, (4, 3, 3, 3)).astype(np.float32)
    integers[:, 0, 0, 0] = 127
    integers[3] = 0
    found, scales = integers_keeping_sums(integers * np.float32(0.25), 127)
    np.testing.assert_array_equal(found, integers)
    np.testing.assert_array_equal(scales.reshape(-1), [0.25, 0.25, 0.25, 1])


def test_weights_too_small_for_a_scale_are_zeros() -> None:
    weights = np.full((1, 1, 3, 3), 1e-40, np.float32)
    assert not integers_keeping_sums(weights, 127)[0].any()


def network(seed: int = 0) -> ModelProto:
    """Convolutions, dense, of each channel alone and of groups of 8, then a matrix product.

    Those of each channel alone take differences of neighbors.
    """
    random = np.random.default_rng(seed)
    differences = random.standard_normal((CHANNELS, 1, 3, 3))
    differences -= differences.mean(axis=(2, 3), keepdims=True)
    tensors = {
        "dense": random.uniform(0, 1, (CHANNELS, CHANNELS, 3, 3)),
        "bias": random.standard_normal(CHANNELS),
        "depthwise": differences,
        "grouped": random.standard_normal((CHANNELS, 8, 3, 3)),
        "matrix": random.standard_normal((CHANNELS, CHANNELS)),
    }
    nodes = [
        helper.make_node("Conv", ["image", "dense", "bias"], ["x"], "dense", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["x", "depthwise"], ["y"], "depthwise", group=CHANNELS),
        helper.make_node("Conv", ["y", "grouped"], ["z"], "grouped", group=2),
        helper.make_node("GlobalAveragePool", ["z"], ["pooled"], "pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], "flatten"),
        helper.make_node("MatMul", ["flat", "matrix"], ["logits"], "product"),
    ]
    weights = {name: values.astype(np.float32) for name, values in tensors.items()}
    return graph_of(nodes, weights, ["batch", CHANNELS, 8, 8], ["batch", CHANNELS])


IMAGES = [np.random.default_rng(1).uniform(3, 4, (16, CHANNELS, 8, 8)).astype(np.float32)]  # one mean for all pixels


def ready_of(model: ModelProto, runtime: str = "onnxruntime", reduced: bool = False) -> CalibratedModel:
    return calibrated(model, lambda: IMAGES, "minmax", runtime, 1, "a test", reduce_range=reduced)


def stored(model: ModelProto) -> Mapping[str, NDArray[np.float32]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def weight_of(made: ModelProto, node: str) -> str:
    return next(each for each in made.graph.node if each.name == node).input[1]


def written(made: ModelProto, node: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """The integers and the scales that a node's weights are dequantized from."""
    makers = {name: each for each in made.graph.node for name in each.output}
    integers, scales = makers[weight_of(made, node)].input[:2]
    return stored(made)[integers], stored(made)[scales]


REDUCED = [(runtime, reduced) for runtime in get_args(QuantizedRuntime) for reduced in (False, True)]


@pytest.mark.parametrize(("runtime", "reduced"), [pair for pair in REDUCED if pair != ("tensorrt", True)])
def test_each_dialect_writes_these_integers_into_convolutions_alone(runtime: str, reduced: bool) -> None:
    model = network()
    ready = ready_of(model, runtime, reduced)
    made, largest = ready.quantized().model, 64 if reduced else 127
    quantized = {node.name for node in ready.nodes()}
    convolutions = {"dense", "grouped"} | (set() if runtime == "tensorrt" else {"depthwise"})
    assert quantized == convolutions | {"product"}
    for name in convolutions:
        integers, scales = integers_keeping_sums(stored(model)[name], largest)
        found, found_scales = written(made, name)
        np.testing.assert_array_equal(found, integers)
        rounding = 2**-11 if runtime == "tensorrt" else 1e-6  # of float16 scales
        np.testing.assert_allclose(found_scales.astype(np.float32), scales.reshape(-1), rtol=rounding)
    matrix = stored(model)["matrix"]
    np.testing.assert_array_equal(
        written(made, "product")[0], np.round(matrix / (np.abs(matrix).max(axis=0) / largest))
    )


def test_layers_that_stay_float_keep_their_weights() -> None:
    model = network()
    ready = ready_of(model)
    before = ready.model.SerializeToString(deterministic=True)
    made = replace(ready, kept_float=frozenset({"depthwise"})).quantized().model
    np.testing.assert_array_equal(stored(made)[weight_of(made, "depthwise")], stored(model)["depthwise"])
    products = ready.quantized("products").model
    for name in ("dense", "depthwise", "grouped"):
        np.testing.assert_array_equal(stored(products)[weight_of(products, name)], stored(model)[name])
    assert ready.model.SerializeToString(deterministic=True) == before


def test_a_weight_of_two_convolutions_is_rounded_once() -> None:
    model = network()
    model.graph.node[2].input[1], model.graph.node[2].attribute[0].i = "depthwise", CHANNELS
    made = ready_of(model).quantized().model
    expected = integers_keeping_sums(stored(model)["depthwise"], 127)[0]
    for node in ("depthwise", "grouped"):
        np.testing.assert_array_equal(written(made, node)[0], expected)


def test_a_channel_whose_bias_needs_a_larger_scale_still_gives_its_bias() -> None:
    model = network()
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    dense, bias = (numpy_helper.to_array(weights[name]).copy() for name in ("dense", "bias"))
    dense[3] *= 1e-12
    bias[3] = 5
    for name, values in (("dense", dense), ("bias", bias)):
        weights[name].CopyFrom(numpy_helper.from_array(values, name))
    made = ready_of(model).quantized().model
    exact, rounded = (outputs_of(form, IMAGES[0])[0] for form in (model, made))
    assert sqnr_db(rounded, exact) > 20


def test_weights_trained_under_rounding_go_to_the_nearest_integers() -> None:
    model = network()
    trained = calibrated(model, lambda: IMAGES, "minmax", "onnxruntime", 1, "a test", {"x": (0.0, 9.0)}, "int8", False)
    weights = stored(model)["depthwise"]
    scales = np.abs(weights).max(axis=(1, 2, 3), keepdims=True) / 127
    made = trained.quantized().model
    np.testing.assert_array_equal(written(made, "depthwise")[0], np.round(weights / scales))
    kept = replace(trained, keeps_sums=True).quantized().model
    assert (written(kept, "depthwise")[0] != written(made, "depthwise")[0]).any()


@pytest.mark.parametrize("reduced", [False, True])
def test_layers_that_take_differences_of_large_inputs_are_closer_to_float(reduced: bool) -> None:
    gains = []
    for seed in range(8):
        model = network(seed)
        kept = ready_of(model, reduced=reduced)
        exact = outputs_of(model, IMAGES[0])[0]
        both = [
            sqnr_db(outputs_of(form.quantized().model, IMAGES[0])[0], exact)
            for form in (kept, replace(kept, keeps_sums=False))
        ]
        gains.append(both[0] - both[1])
    assert min(gains) > 6, "dB; from 13 to 26 over seeds"


def test_a_graph_without_convolutions_stays_as_it_is() -> None:
    nodes = [helper.make_node("MatMul", ["image", "w"], ["logits"], "product")]
    model = graph_of(nodes, {"w": np.ones((4, 5), np.float32)}, ["batch", 4], ["batch", 5])
    assert with_kept_sums(model, model.graph.node, 127) is model
