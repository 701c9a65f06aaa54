"""Q/DQ nodes of FP8 products and INT4 weights, as TensorRT reads them.

All scales are float16 values, so that they stay the same when the graph is converted to float16.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgevit.graphs.tensors import without_unread_weights
from edgevit.quantization.calibration import Ranges
from edgevit.quantization.dialects import BLOCK, axis_of_inputs

Floats = NDArray[np.float32]

FLOAT8, INT4 = (helper.tensor_dtype_to_np_dtype(number) for number in (TensorProto.FLOAT8E4M3FN, TensorProto.INT4))
LARGEST_FLOAT8, LARGEST_INT4, LEAST_INT4 = 448.0, 7, -8
IR_OF_FLOAT8, IR_OF_INT4 = 9, 10  # the oldest version of the ONNX file format that has the type
LEAST_NORMAL_HALF, LEAST_HALF = 2.0**-14, 2.0**-24
CLIPPING_SHARES = np.linspace(1, 0.6, 9)  # of the largest magnitude of a block


class _Operand(NamedTuple):
    """The tensor that a node reads in place of a float one, the nodes that make it, and their constants."""

    name: str
    nodes: list[NodeProto]
    constants: list[TensorProto]


def with_float8(model: ModelProto, chosen: Sequence[NodeProto], ranges: Ranges) -> ModelProto:
    """The graph with weights and inputs of `chosen` nodes in E4M3.

    Each tensor has one scale, which maps its largest magnitude to 448. Micikevicius et al. 2022, "FP8 Formats for Deep
    Learning", section 3.

    Args:
        ranges: lowest and highest value of the input of each node.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    operands: dict[str, _Operand] = {}
    for node in chosen:
        activation, weight = node.input[:2]
        operands[activation] = _rounded_activation(activation, max(map(abs, ranges[activation])))
        operands[weight] = _float8_weight(weight, numpy_helper.to_array(weights[weight]))
    return _with_operands(model, chosen, operands, IR_OF_FLOAT8)


def with_int4(model: ModelProto, chosen: Sequence[NodeProto]) -> ModelProto:
    """The graph with the weights of `chosen` products in INT4, with a scale for each BLOCK inputs of an output."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    operands: dict[str, _Operand] = {}
    for node in chosen:
        weight = node.input[1]
        operands[weight] = _int4_weight(weight, numpy_helper.to_array(weights[weight]), axis_of_inputs(node))
    return _with_operands(model, chosen, operands, IR_OF_INT4)


def float8_scale(largest: float) -> np.float32:
    """The scale that maps a magnitude to 448, rounded to float16, and at least float16's least normal value."""
    return np.float32(np.float16(max(largest / LARGEST_FLOAT8, LEAST_NORMAL_HALF)))


def int4_blocks(weight: Floats, axis: int) -> tuple[NDArray[Any], Floats]:
    """The integers of a matrix and the scales of its blocks.

    Scales that map between 60% and 100% of a block's largest magnitude to 7 are tried. Each block gets the scale with
    the least squared error.

    Returns:
        Integers in the shape of the matrix; scales in that shape with one for each BLOCK along `axis`.
    """
    columns = np.moveaxis(weight, axis, 0)
    blocks = columns.reshape(-1, BLOCK, columns.shape[1])
    largest = np.abs(blocks).max(1, keepdims=True)
    scale, least = np.zeros_like(largest), np.full_like(largest, np.inf)
    for share in CLIPPING_SHARES:
        candidate = np.maximum(share * largest / LARGEST_INT4, LEAST_HALF).astype(np.float16).astype(np.float32)
        error = np.square(_steps(blocks, candidate) * candidate - blocks).sum(1, keepdims=True)
        scale, least = np.where(error < least, candidate, scale), np.minimum(error, least)
    integers = _steps(blocks, scale).reshape(columns.shape)
    return np.moveaxis(integers, 0, axis).astype(INT4), np.moveaxis(scale[:, 0], 0, axis)


def _steps(values: Floats, scale: Floats) -> Floats:
    steps: Floats = np.clip(np.rint(values / scale), LEAST_INT4, LARGEST_INT4)
    return steps


def _rounded_activation(name: str, largest: float) -> _Operand:
    scale, zero, rounded, restored = (f"{name}_{part}" for part in ("scale", "zero_point", "float8", "restored"))
    constants = {scale: np.asarray(float8_scale(largest)), zero: np.zeros((), FLOAT8)}
    return _Operand(
        restored,
        [
            helper.make_node("QuantizeLinear", [name, scale, zero], [rounded], f"{name}_QuantizeLinear"),
            helper.make_node("DequantizeLinear", [rounded, scale, zero], [restored], f"{name}_DequantizeLinear"),
        ],
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )


def _float8_weight(name: str, weight: Floats) -> _Operand:
    scale = float8_scale(float(np.abs(weight).max()))
    levels = np.clip(weight / scale, -LARGEST_FLOAT8, LARGEST_FLOAT8)
    return _stored_weight(name, levels.astype(FLOAT8), np.asarray(scale))


def _int4_weight(name: str, weight: Floats, axis: int) -> _Operand:
    integers, scale = int4_blocks(weight, axis)
    return _stored_weight(name, integers, scale, axis=axis, block_size=BLOCK)


def _stored_weight(name: str, values: NDArray[Any], scale: Floats, **attributes: Any) -> _Operand:
    stored, scales, restored = (f"{name}_{part}" for part in ("quantized", "scale", "restored"))
    node = helper.make_node("DequantizeLinear", [stored, scales], [restored], f"{name}_DequantizeLinear", **attributes)
    constants = [numpy_helper.from_array(values, stored), numpy_helper.from_array(scale, scales)]
    return _Operand(restored, [node], constants)


def _with_operands(
    model: ModelProto, chosen: Sequence[NodeProto], operands: Mapping[str, _Operand], oldest_ir: int
) -> ModelProto:
    """A copy whose chosen nodes read operands in place of tensors, without weights that no node reads."""
    copy, names, placed = ModelProto(), {node.name for node in chosen}, set[str]()
    copy.CopyFrom(model)
    copy.ir_version = max(copy.ir_version, oldest_ir)
    del copy.graph.node[:]
    for node in model.graph.node:
        replaced = [name for name in node.input if name in operands] if node.name in names else []
        for name in replaced:
            if name not in placed:
                placed.add(name)
                copy.graph.node.extend(operands[name].nodes)
                copy.graph.initializer.extend(operands[name].constants)
        written = copy.graph.node.add()
        written.CopyFrom(node)
        if replaced:
            written.input[:] = [operands[name].name if name in replaced else name for name in node.input]
    return without_unread_weights(copy)
