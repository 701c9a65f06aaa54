"""FP8 products and INT4 weights: against torch's float8, a plain loop over blocks, and what ONNX Runtime computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch.nn.functional import conv2d

from edgevit.configs import Quantize, QuantizedPrecision
from edgevit.errors import ArtifactError
from edgevit.graphs.precision import onnx_metrics
from edgevit.graphs.walk import operator_counts
from edgevit.quantization import calibrated
from edgevit.quantization.dialects import BLOCK, dialect_of, why_float
from edgevit.quantization.fp8_int4 import float8_scale, int4_blocks
from edgevit.quantization.ptq import Quantized
from tests.small_models import float_onnx, workbench

Floats = NDArray[np.float32]
RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((8, 128)).astype(np.float32)
FIRST, SECOND = (RNG.standard_normal(shape).astype(np.float32) / 10 for shape in ((128, 128), (80, 128)))
ODD = RNG.standard_normal((80, 40)).astype(np.float32) / 10


def two_products(opset: int = 20, *more: NodeProto, ir_version: int = 9, **weights: Floats) -> ModelProto:
    """image (N, 128) → MatMul → Relu → Gemm of a transposed weight → c → MatMul → logits (N, 40)"""
    nodes = [
        helper.make_node("MatMul", ["image", "first"], ["a"], "first product"),
        helper.make_node("Relu", ["a"], ["b"], "act"),
        helper.make_node("Gemm", ["b", "second", "bias"], ["c"], "second product", transB=1),
        helper.make_node("MatMul", ["c", "odd"], ["logits"], "odd product"),
        *more,
    ]
    found = {"first": FIRST, "second": SECOND, "bias": np.ones(80, np.float32), "odd": ODD, **weights}
    graph = helper.make_graph(
        nodes,
        "two",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 128])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 40])],
        [numpy_helper.from_array(value, name) for name, value in found.items()],  # type: ignore[arg-type]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


def quantized(model: ModelProto, precision: QuantizedPrecision) -> Quantized:
    made = calibrated(model, lambda: [IMAGES], "minmax", "tensorrt", 1, "test", precision=precision).quantized()
    onnx.checker.check_model(made.model, full_check=True)
    return made


def logits_of(model: ModelProto, images: Floats = IMAGES) -> Floats:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"image": images})[0])


def sqnr_db(got: NDArray[np.floating], expected: NDArray[np.floating]) -> float:
    return float(10 * np.log10(np.square(expected).sum() / np.square(expected - got).sum()))


def constants(model: ModelProto) -> dict[str, NDArray[np.generic]]:
    return {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}


@pytest.mark.parametrize(("precision", "oldest"), [("float8", 9), ("int4", 10)])
@pytest.mark.parametrize(("opset", "ir_version"), [(19, 8), (21, 8), (21, 12)])
def test_the_file_is_of_a_version_that_has_its_types(
    precision: QuantizedPrecision, oldest: int, opset: int, ir_version: int
) -> None:
    made = quantized(two_products(opset, ir_version=ir_version), precision).model
    assert made.ir_version == max(ir_version, oldest)


# FP8 ------------------------------------------------------------------------------------------------------------


def as_float8(values: torch.Tensor, calibrated: torch.Tensor) -> torch.Tensor:
    """Rounded by torch, with the scale that takes the largest number of another tensor to 448, in half precision."""
    scale = (calibrated.abs().max() / 448).half().double()
    return (values.double() / scale).clamp(-448, 448).float().to(torch.float8_e4m3fn).double() * scale


def product_in_float8(entering: torch.Tensor, calibrated: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """weight (outputs, inputs); `calibrated` is what enters the product of the float model"""
    return as_float8(entering, calibrated) @ as_float8(weight, weight).T


def test_float8_products_are_those_of_torch() -> None:
    image, first, second, odd = (torch.from_numpy(one) for one in (IMAGES, FIRST.T, SECOND, ODD.T))
    hidden = (image @ first.T).relu()
    expected = product_in_float8(image.half(), image, first).relu()
    expected = product_in_float8(expected.half(), hidden, second) + 1
    expected = product_in_float8(expected.half(), hidden @ second.T + 1, odd)
    found = quantized(two_products(), "float8")
    assert found.quantized_ops == {"MatMul": 2, "Gemm": 1}
    got = logits_of(found.model)
    plain = logits_of(two_products())
    assert 20 < sqnr_db(plain, expected.numpy()) < 35
    # A value near the middle between two numbers of FP8 may be rounded to the other one by 16-bit sums.
    assert sqnr_db(got, expected.numpy()) > sqnr_db(plain, expected.numpy()) + 10


def test_a_float8_file_has_one_scale_a_tensor() -> None:
    found = quantized(two_products(), "float8")
    held = constants(found.model)
    operators = operator_counts(found.model)
    assert (operators["QuantizeLinear"], operators["DequantizeLinear"]) == (3, 6)
    scales = [held[node.input[1]] for node in found.model.graph.node if node.op_type.endswith("uantizeLinear")]
    assert {(scale.shape, scale.dtype) for scale in scales} == {((), np.dtype(np.float16))}
    types = {one.name: one.data_type for one in found.model.graph.initializer}
    assert types["first_quantized"] == types["second_quantized"] == TensorProto.FLOAT8E4M3FN
    assert not {"first", "second", "odd"} & types.keys(), "the float weights are gone"
    metrics = onnx_metrics(found.model, 0)
    assert metrics["precision"] == "float8"
    assert metrics["params"] == onnx_metrics(two_products(), 0)["params"]


@given(st.floats(0, 65504))
def test_no_scale_of_float8_is_zero_and_none_clips(largest: float) -> None:
    scale = float8_scale(largest)
    assert scale >= 2.0**-14
    assert scale == np.float16(scale)
    assert largest / scale <= 448 * 1.001


def test_convolutions_are_those_of_torch_too() -> None:
    wide, few = (RNG.standard_normal(shape).astype(np.float32) / 12 for shape in ((32, 16, 3, 3), (16, 8, 1, 1)))
    nodes = [
        helper.make_node("Conv", ["image", "wide"], ["c"], "wide convolution"),
        helper.make_node("Conv", ["c", "few"], ["logits"], "grouped convolution", group=4),
    ]
    graph = helper.make_graph(
        nodes,
        "convolved",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 16, 6, 6])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 16, 4, 4])],
        [numpy_helper.from_array(wide, "wide"), numpy_helper.from_array(few, "few")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    images = RNG.standard_normal((4, 16, 6, 6)).astype(np.float32)
    found = calibrated(model, lambda: [images], "minmax", "tensorrt", 1, "test", precision="float8").quantized()
    assert (found.quantized_ops, found.float_ops) == ({"Conv": 1}, {"Conv": 1})
    image, weight = torch.from_numpy(images), torch.from_numpy(wide)
    expected = conv2d(as_float8(image.half(), image), as_float8(weight, weight))
    expected = conv2d(expected, torch.from_numpy(few).double(), groups=4)
    assert sqnr_db(logits_of(found.model, images), expected.numpy()) > 50


# INT4 -----------------------------------------------------------------------------------------------------------


def rounded_blocks(weight: Floats) -> tuple[NDArray[np.int64], Floats]:
    """One block after the other of a weight (inputs, outputs)."""
    inputs, outputs = weight.shape
    integers, scales = np.zeros(weight.shape, np.int64), np.zeros((inputs // BLOCK, outputs), np.float32)
    for block in range(inputs // BLOCK):
        for output in range(outputs):
            rows = slice(block * BLOCK, (block + 1) * BLOCK)
            values, least = weight[rows, output], np.inf
            for share in np.linspace(1, 0.6, 9):
                scale = np.float32(np.float16(np.float32(share) * np.abs(values).max() / np.float32(7)))
                steps = np.array([min(7, max(-8, round(float(value / scale)))) for value in values])
                error = float(np.square(np.float64(scale) * steps - values).sum())
                if error < least * (1 - 1e-6):
                    least, scales[block, output], integers[rows, output] = error, scale, steps
    return integers, scales


@pytest.mark.parametrize("axis", [0, 1])
def test_int4_blocks_are_those_of_a_plain_loop(axis: int) -> None:
    weight = RNG.standard_normal((192, 24)).astype(np.float32) * RNG.uniform(0.001, 1, 24).astype(np.float32)
    integers, scales = int4_blocks(weight if axis == 0 else np.ascontiguousarray(weight.T), axis)
    if axis == 1:
        integers, scales = integers.T, scales.T
    expected_integers, expected_scales = rounded_blocks(weight)
    np.testing.assert_array_equal(scales, expected_scales)
    np.testing.assert_array_equal(integers.astype(np.int64), expected_integers)


def test_empty_and_tiny_blocks_have_scales() -> None:
    weight = np.zeros((BLOCK, 3), np.float32)
    weight[:, 1] = 1e-9
    weight[:, 2] = 1e-5
    integers, scales = int4_blocks(weight, 0)
    assert (scales > 0).all()
    assert not integers[:, :2].astype(np.int64).any()
    np.testing.assert_allclose(integers[:, 2].astype(np.float32) * scales[0, 2], weight[:, 2], rtol=0.05)


def test_int4_weights_compute_what_their_blocks_say() -> None:
    found = quantized(two_products(), "int4")
    assert found.quantized_ops == {"MatMul": 1, "Gemm": 1}
    assert found.float_ops == {"Relu": 1, "MatMul": 1}, "80 inputs are no blocks of 64"
    first, second = (
        integers * np.repeat(scales, BLOCK, axis=0)
        for integers, scales in map(rounded_blocks, (FIRST, SECOND.T))  # type: ignore[arg-type]
    )
    expected = (np.maximum(IMAGES @ first, 0) @ second + 1) @ ODD
    assert sqnr_db(logits_of(found.model), expected) > 55, "float16"
    assert 15 < sqnr_db(logits_of(two_products()), expected) < 30


def test_int4_weights_are_two_to_a_byte_in_opset_21() -> None:
    found = quantized(two_products(), "int4").model
    assert found.opset_import[0].version == 21
    stored = {one.name: one for one in found.graph.initializer}["first_quantized"]
    assert stored.data_type == TensorProto.INT4
    assert len(stored.raw_data) == FIRST.size // 2
    made = {node.input[0]: node for node in found.graph.node if node.op_type == "DequantizeLinear"}
    attributes = {name: {one.name: one.i for one in node.attribute} for name, node in made.items()}
    assert attributes == {
        "first_quantized": {"axis": 0, "block_size": BLOCK},
        "second_quantized": {"axis": 1, "block_size": BLOCK},
    }
    assert onnx_metrics(found, 0)["precision"] == "int4"
    assert onnx_metrics(found, 0)["params"] == onnx_metrics(two_products(), 0)["params"]


def test_a_weight_that_others_read_too_stays_beside_its_rounded_form() -> None:
    sides = helper.make_node("MatMul", ["first", "c2"], ["d"], "side product")
    found = quantized(two_products(20, sides, c2=np.ones((128, 3), np.float32)), "float8").model
    names = constants(found).keys()
    assert "first" in names
    assert any(name.endswith("_quantized") for name in names)


@pytest.mark.parametrize("shape", [(96, 32), (64, 32), (128, 33)], ids=["half a block", "one block", "odd outputs"])
def test_what_does_not_fill_blocks_is_left_and_a_graph_of_it_alone_refused(shape: tuple[int, int]) -> None:
    node = helper.make_node("MatMul", ["image", "w"], ["logits"], "product")
    assert (
        why_float(node, {"w": shape}, dialect_of("tensorrt", "int4"))
        == "its weights are not several blocks of 64 inputs for an even number of outputs"
    )
    assert not why_float(node, {"w": (128, 32)}, dialect_of("tensorrt", "int4"))
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])
        for name, size in zip(("image", "logits"), shape, strict=True)
    ]
    weight = numpy_helper.from_array(np.ones(shape, np.float32), "w")
    graph = helper.make_graph([node], "narrow", values[:1], values[1:], [weight])
    with pytest.raises(ArtifactError, match="nothing to quantize") as error:
        quantized(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), "int4")
    assert "1 MatMul: its weights are not several blocks of 64 inputs" in error.value.got
    assert "of several blocks of 64 inputs" in str(error.value)


# In stages ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float8", "int4"])
def test_a_small_vit_goes_through_the_stage(precision: str) -> None:
    made = workbench().run(
        "quantize", precision, model=float_onnx().id, calibration="digits.pool", calibration_images=16,
        runtime="tensorrt", precision=precision, sensitivity=True,
    )  # fmt: skip
    assert made.metrics["precision"] == precision
    assert made.metrics["form"] == f"{precision} all"
    assert made.metrics["sqnr_db"] > (20 if precision == "float8" else 15)
    assert made.metrics["params"] == float_onnx().metrics["params"]
    # Two blocks of width 48: of their products only those with 192 inputs are whole blocks of 64.
    assert sum(made.metrics["quantized_ops"].values()) == (8 if precision == "float8" else 2)
    assert made.metrics["size_bytes"] < 0.6 * float_onnx().metrics["size_bytes"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"runtime": "onnxruntime"}, "float8 is for runtime: tensorrt; onnxruntime takes int8"),
        ({"runtime": "tensorrt", "calibrator": "entropy"}, "calibrator: entropy is for int8"),
        ({"runtime": "tensorrt", "smoothquant": 0.5}, "smoothquant is for int8"),
    ],
)
def test_what_does_not_go_together_is_said(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Quantize.model_validate(
            {"stage": "quantize", "id": "q", "model": "m", "calibration": "c", "precision": "float8", **fields}
        )
