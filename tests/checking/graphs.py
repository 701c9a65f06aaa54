"""Small graphs that keep TensorRT's rules, to be broken one rule at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

SIDE, CHANNELS = 8, 16
INT4, FLOAT8 = (helper.tensor_dtype_to_np_dtype(number) for number in (TensorProto.INT4, TensorProto.FLOAT8E4M3FN))


def node(operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(operator, inputs, [output], f"{operator}_{output}", **attributes)


def model(
    nodes: Sequence[NodeProto],
    constants: Mapping[str, Any],
    image: Sequence[int | str],
    logits: Sequence[int | str],
    opset: int = 20,
) -> ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, image)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, logits)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9 if opset < 21 else 10)


def pair(tensor: str, output: str, scale: str = "scale", zero: str = "zero") -> list[NodeProto]:
    """tensor → Q → DQ → output"""
    integers = f"{output}_integers"
    return [
        node("QuantizeLinear", [tensor, scale, zero], integers),
        node("DequantizeLinear", [integers, scale, zero], output),
    ]


def float_convolution_between_pairs() -> ModelProto:
    """ONNX Runtime gives its float weights 8 bits."""
    nodes = [*pair("image", "rounded"), node("Conv", ["rounded", "kernel"], "convolved"), *pair("convolved", "logits")]
    kernel = np.random.default_rng(0).normal(size=(CHANNELS, CHANNELS, 3, 3)).astype(np.float32)
    return model(nodes, constants(kernel=kernel), [1, CHANNELS, 8, 8], [1, CHANNELS, 6, 6])


def branch(tensor: str, output: str) -> list[NodeProto]:
    """tensor → output, read inside an If that logits decide."""
    read = helper.make_tensor_value_info("read", TensorProto.FLOAT, None)
    body = helper.make_graph([helper.make_node("Identity", [tensor], ["read"])], "body", [], [read])
    return [
        node("ReduceSum", ["logits"], "sum", keepdims=0),
        node("IsNaN", ["sum"], "decides"),
        node("If", ["decides"], output, then_branch=body, else_branch=body),
    ]


def constants(**others: Any) -> dict[str, Any]:
    """Of a quantized convolution, CHANNELS to CHANNELS, 3 × 3."""
    return {
        "scale": np.float32(0.1),
        "zero": np.int8(0),
        "weight": np.ones((CHANNELS, CHANNELS, 3, 3), np.int8),
        "weight_scale": np.full(CHANNELS, 0.1, np.float32),
        "weight_zero": np.zeros(CHANNELS, np.int8),
        **others,
    }


WEIGHTS = node("DequantizeLinear", ["weight", "weight_scale", "weight_zero"], "weights", axis=0)


def convolution(*before: NodeProto, weights: Any = WEIGHTS, **others: Any) -> ModelProto:
    """image → pair (or `before`) → Conv → logits, with both operands dequantized."""
    nodes = [*(before or pair("image", "rounded")), weights, node("Conv", ["rounded", "weights"], "logits")]
    return model(nodes, constants(**others), [1, CHANNELS, SIDE, SIDE], [1, CHANNELS, SIDE - 2, SIDE - 2])


def product(block: int = 64, rounds_image: bool = False) -> ModelProto:
    """image (16, 256) × INT4 weights (256, 32), in blocks of inputs; 0 is one scale an output"""
    blocks = {"axis": 0, "block_size": block} if block else {"axis": 1}
    nodes = [
        *(pair("image", "entering") if rounds_image else [node("Identity", ["image"], "entering")]),
        node("DequantizeLinear", ["weight", "weight_scale"], "weights", **blocks),
        node("MatMul", ["entering", "weights"], "logits"),
    ]
    found = {
        "scale": np.float32(0.1),
        "zero": np.zeros((), INT4),
        "weight": np.ones((256, 32), INT4),
        "weight_scale": np.full((256 // block, 32) if block else 32, 0.1, np.float32),
    }
    return model(nodes, found, [16, 256], [16, 32], opset=21)


def attention(tokens: int, head: int, quantized: bool) -> ModelProto:
    """softmax(x xᵀ) x over (1, heads, tokens, head)"""
    shape = [1, 3, tokens, head]
    enter = pair("image", "rounded") if quantized else [node("Identity", ["image"], "rounded")]
    weigh = pair("weights", "weights_rounded") if quantized else [node("Identity", ["weights"], "weights_rounded")]
    nodes = [
        *enter,
        node("Transpose", ["rounded"], "keys", perm=[0, 1, 3, 2]),
        node("MatMul", ["rounded", "keys"], "scores"),
        node("Softmax", ["scores"], "weights", axis=-1),
        *weigh,
        node("MatMul", ["weights_rounded", "rounded"], "logits"),
    ]
    found = {"scale": np.float32(0.1), "zero": np.int8(0)}
    return model(nodes, found, shape, shape)


def classifier() -> ModelProto:
    """Images of 16 pixels to logits of four classes by two matrices; 200 kB."""
    rng = np.random.default_rng(0)
    weights = {"first": rng.normal(0, 0.03, (768, 64)), "second": rng.normal(0, 0.1, (64, 4))}
    nodes = [
        node("Flatten", ["image"], "pixels"),
        node("MatMul", ["pixels", "first"], "hidden"),
        node("Relu", ["hidden"], "positive"),
        node("MatMul", ["positive", "second"], "logits"),
    ]
    tensors = {name: one.astype(np.float32) for name, one in weights.items()}
    return model(nodes, tensors, ["batch", 3, 16, 16], ["batch", 4])
