"""Graphs that writers of Q/DQ nodes do not foresee, quantized to the outputs of the float model in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgevit.graphs.normal_form import normalize
from edgevit.quantization.ptq import calibrated
from edgevit.runtimes.parity import sqnr_db
from tests.graphs.odd_graphs import plain_session

IMAGES = np.random.default_rng(0).normal(size=(8, 3, 8, 8)).astype(np.float32)
CONV: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
DIALECTS = ("onnxruntime", "openvino", "tensorrt")
node = helper.make_node


def weight(seed: int, *shape: int) -> NDArray[np.float32]:
    fan = np.sqrt(np.prod(shape[1:]))
    return (np.random.default_rng(seed).normal(size=shape) / fan).astype(np.float32)


def net(nodes: Sequence[NodeProto], outputs: Sequence[str] = ("logits",), **weights: NDArray[np.float32]) -> ModelProto:
    """image (8, 3, 8, 8) → 16 channels "x" → 16 channels → `nodes` from "f" (8, 16) on."""
    first = [
        node("Conv", ["image", "first"], ["x"], "first", **CONV),
        node("Conv", ["x", "second"], ["y"], "second", **CONV),
        node("GlobalAveragePool", ["y"], ["p"]),
        node("Flatten", ["p"], ["f"]),
    ]
    stored = {"first": weight(1, 16, 3, 3, 3), "second": weight(2, 16, 16, 3, 3), **weights}
    graph = helper.make_graph(
        [*first, *nodes],
        "odd",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def product(**weights: NDArray[np.float32]) -> ModelProto:
    return net([node("MatMul", ["f", "last"], ["logits"], "product")], last=weight(3, 16, 16), **weights)  # type: ignore[arg-type]


def closeness_db(
    model: ModelProto, dialect: str, precision: str = "int8", images: NDArray[np.float32] = IMAGES
) -> float:
    """How close the quantized model comes to the float one, every output, in plain ONNX Runtime."""
    expected = np.concatenate([one.ravel() for one in plain_session(model).run(None, {"image": images})])
    normalize(model)
    made = calibrated(model, lambda: [images], "minmax", dialect, 1, "a test", precision=precision).quantized()  # type: ignore[arg-type]
    assert sum(made.quantized_ops.values()) >= 2
    got = np.concatenate([one.ravel() for one in plain_session(made.model).run(None, {"image": images})])
    return sqnr_db(got, expected)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("shape", [(16,), (1, 16), (1,), (), (1, 1), (8, 16)])
def test_a_bias_of_any_shape(shape: tuple[int, ...], dialect: str) -> None:
    bias = np.asarray(np.random.default_rng(4).normal(size=shape), np.float32)
    gemm = node("Gemm", ["f", "last", "bias"], ["logits"], "gemm", transB=1)
    assert closeness_db(net([gemm], last=weight(3, 16, 16), bias=bias), dialect) > 25


@pytest.mark.parametrize("images", [8, 16])
def test_a_bias_of_one_number_an_image(images: int) -> None:
    """Also with as many images as outputs, where a vector of it would fit."""
    bias = np.random.default_rng(4).normal(size=(images, 1)).astype(np.float32)
    gemm = node("Gemm", ["f", "last", "bias"], ["logits"], "gemm", transB=1)
    model = net([gemm], last=weight(3, 16, 16), bias=bias)
    assert closeness_db(model, "onnxruntime", images=np.resize(IMAGES, (images, 3, 8, 8))) > 25


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_branch_that_reads_the_main_graph(dialect: str) -> None:
    def branch(name: str, inner: NodeProto) -> object:
        typed = helper.make_tensor_value_info(inner.output[0], TensorProto.FLOAT, None)
        return helper.make_graph([inner], name, [], [typed])

    chosen = node(
        "If", ["yes"], ["chosen"], "if",
        then_branch=branch("then", node("MatMul", ["f", "shared"], ["t"])),
        else_branch=branch("else", node("Relu", ["f"], ["e"])),
    )  # fmt: skip
    both = node("MatMul", ["f", "shared"], ["g"], "product")
    model = net([chosen, both, node("Add", ["chosen", "g"], ["logits"])], shared=weight(3, 16, 16), yes=np.array(True))
    assert closeness_db(model, dialect) > 25


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("last", "x_scale"),
        ("last", "x_zero_point"),
        ("last", "second_quantized"),
        ("last", "x_QuantizeLinear_Output"),
        ("last", "second_scale"),
        ("last", "graph_input_cast_0"),
        ("y", "x_DequantizeLinear_Output"),
        ("logits", "image_scale"),
        ("logits", "logits_x"),
        ("x", "logits_QuantizeLinear_Input"),
        ("image", "logits_zero_point"),
        ("f", "edgevit_tensor_0"),
    ],
)
def test_names_that_a_writer_would_give(old: str, new: str, dialect: str) -> None:
    model = product()
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        value.name = new if value.name == old else value.name
    for one in model.graph.node:
        one.input[:] = [new if name == old else name for name in one.input]
        one.output[:] = [new if name == old else name for name in one.output]
    image, outputs = model.graph.input[0].name, [one.name for one in model.graph.output]
    [expected] = plain_session(model).run(None, {image: IMAGES})
    made = calibrated(model, lambda: [IMAGES], "minmax", dialect, 1, "a test").quantized().model
    assert [one.name for one in made.graph.input] == [image]
    assert [one.name for one in made.graph.output] == outputs
    [got] = plain_session(made).run(None, {image: IMAGES})
    assert sqnr_db(got, expected) > 25


@pytest.mark.parametrize("inner", ["mid", "bias0"])
def test_a_bias_of_two_layers_beside_a_tensor_with_its_name_and_a_number(inner: str) -> None:
    model = product(bias=weight(5, 16, 1)[:, 0])
    first, second = model.graph.node[:2]
    first.output[0], second.input[0] = inner, inner
    for conv in (first, second):
        conv.input.append("bias")
    assert closeness_db(model, "onnxruntime") > 20


@pytest.mark.parametrize(
    ("dialect", "precision"), [*((dialect, "int8") for dialect in DIALECTS), ("tensorrt", "float8")]
)
def test_a_weight_that_two_products_read_in_two_ways(dialect: str, precision: str) -> None:
    tied = [
        node("MatMul", ["f", "tied"], ["a"], "there"),
        node("Gemm", ["a", "tied"], ["b"], "back", transB=1),
        node("Mul", ["b", "row"], ["logits"]),
    ]
    wide = weight(3, 16, 24)
    assert closeness_db(net(tied, tied=wide, row=wide[:, 0]), dialect, precision) > 20


@pytest.mark.parametrize("domain", ["", "ai.onnx"])
def test_the_default_domain_imported_twice(domain: str) -> None:
    model = product()
    model.opset_import.append(helper.make_opsetid(domain, 20))
    assert closeness_db(model, "onnxruntime") > 25
