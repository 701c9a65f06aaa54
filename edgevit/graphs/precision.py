"""The precision of a graph, and its number of parameters."""

from __future__ import annotations

import math
from collections.abc import Iterator

from onnx import ModelProto, TensorProto

from edgevit.artifacts import Json
from edgevit.graphs.tensors import constants_of
from edgevit.graphs.walk import integer_attribute, nodes

NARROW_TYPES = {TensorProto.FLOAT8E4M3FN: "float8", TensorProto.INT4: "int4"}  # of quantized weights, beside int8
QUANTIZED_OPERATOR_PARTS = ("uantize", "QLinear", "Integer", "QGemm", "QAttention", "MatMulNBits")
WEIGHT_TYPES = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8, TensorProto.UINT8, *NARROW_TYPES)


def onnx_metrics(model: ModelProto, size_bytes: int) -> Json:
    """Metrics of a graph: parameters (weights, without scales and constants of shape), size, precision."""
    return {
        "params": sum(_parameters(model)),
        "size_bytes": size_bytes,
        "precision": onnx_precision(model),
    }


def onnx_precision(model: ModelProto) -> str:
    """The precision of the quantized weights; in a float graph, of all weights."""
    stored = {tensor.data_type for tensor in constants_of(model).values()}
    if any(node.op_type == "MatMulNBits" and integer_attribute(node, "bits", 4) == 4 for node in nodes(model)):
        return "int4"
    if is_quantized(model):
        return next((name for number, name in NARROW_TYPES.items() if number in stored), "int8")
    return "float16" if TensorProto.FLOAT16 in stored else "float32"


def is_quantized(model: ModelProto) -> bool:
    """Whether a graph holds quantized operators of any form."""
    return any(part in node.op_type for node in nodes(model) for part in QUANTIZED_OPERATOR_PARTS)


def _parameters(model: ModelProto) -> Iterator[int]:
    """The number of elements of each weight."""
    for name, tensor in constants_of(model).items():
        if tensor.data_type in WEIGHT_TYPES and not name.endswith(("_scale", "_zero_point")) and tensor.dims:
            yield math.prod(tensor.dims)
