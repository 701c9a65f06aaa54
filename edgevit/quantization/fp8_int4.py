"""FP8 products and INT4 weights, as TensorRT reads them: a graph whose floats will be float16, with their Q/DQ nodes.

What is rounded is rounded with scales that float16 holds, so that nothing changes where the graph becomes float16.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgevit.graphs.walk import nodes
from edgevit.quantization.calibration import Ranges
from edgevit.quantization.dialects import BLOCK, axis_of_inputs

Floats = NDArray[np.float32]

FLOAT8, INT4 = (helper.tensor_dtype_to_np_dtype(number) for number in (TensorProto.FLOAT8E4M3FN, TensorProto.INT4))
LARGEST_FLOAT8, LARGEST_INT4, LEAST_INT4 = 448.0, 7, -8
IR_OF_FLOAT8, IR_OF_INT4 = 9, 10  # of ONNX's files, the oldest version that has the type
LEAST_NORMAL_HALF, LEAST_HALF = 2.0**-14, 2.0**-24
CLIPPED_TO = np.linspace(1, 0.6, 9)  # shares of the largest weight of a block


class _Operand(NamedTuple):
    """What a node reads in place of a tensor, the nodes that make it, and their constants."""

    name: str
    nodes: list[NodeProto]
    constants: list[TensorProto]


def with_float8(model: ModelProto, chosen: Sequence[NodeProto], ranges: Ranges) -> ModelProto:
    """The graph with the weights of `chosen` nodes in E4M3, and what enters these rounded to E4M3.

    Each tensor has one scale, which takes its largest magnitude to 448. Micikevicius et al. 2022, "FP8 Formats for Deep
    Learning", section 3.

    Args:
        ranges: lowest and highest value of what enters each node.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    operands: dict[str, _Operand] = {}
    for node in chosen:
        entering, weight = node.input[:2]
        operands[entering] = _rounded_activation(entering, max(map(abs, ranges[entering])))
        operands[weight] = _float8_weight(weight, numpy_helper.to_array(weights[weight]))
    return _with_operands(model, chosen, operands, IR_OF_FLOAT8)


def with_int4(model: ModelProto, chosen: Sequence[NodeProto]) -> ModelProto:
    """The graph with the weights of `chosen` products in INT4, a scale for each BLOCK inputs of an output."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    operands: dict[str, _Operand] = {}
    for node in chosen:
        weight = node.input[1]
        operands[weight] = _int4_weight(weight, numpy_helper.to_array(weights[weight]), axis_of_inputs(node))
    return _with_operands(model, chosen, operands, IR_OF_INT4)


def float8_scale(largest: float) -> np.float32:
    """What takes a magnitude to 448, as float16 holds it; a small one to less, which costs its few bits nothing."""
    return np.float32(np.float16(max(largest / LARGEST_FLOAT8, LEAST_NORMAL_HALF)))


def int4_blocks(weight: Floats, axis: int) -> tuple[NDArray[Any], Floats]:
    """Integers of a matrix, and the scales of its blocks: the matrix's shape but along `axis`, one for each BLOCK.

    Of the scales that take between all and 60% of a block's largest magnitude to 7, each block gets the one whose
    rounded values have the least squared error.
    """
    columns = np.moveaxis(weight, axis, 0)
    blocks = columns.reshape(-1, BLOCK, columns.shape[1])
    largest = np.abs(blocks).max(1, keepdims=True)
    scale, least = np.zeros_like(largest), np.full_like(largest, np.inf)
    for share in CLIPPED_TO:
        tried = np.maximum(share * largest / LARGEST_INT4, LEAST_HALF).astype(np.float16).astype(np.float32)
        error = np.square(_steps(blocks, tried) * tried - blocks).sum(1, keepdims=True)
        scale, least = np.where(error < least, tried, scale), np.minimum(error, least)
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
    """A copy whose chosen nodes read operands in place of tensors; weights that nothing reads any more are left out."""
    made, names, placed = ModelProto(), {node.name for node in chosen}, set[str]()
    made.CopyFrom(model)
    made.ir_version = max(made.ir_version, oldest_ir)
    del made.graph.node[:]
    for node in model.graph.node:
        read = [name for name in node.input if name in operands] if node.name in names else []
        for name in read:
            if name not in placed:
                placed.add(name)
                made.graph.node.extend(operands[name].nodes)
                made.graph.initializer.extend(operands[name].constants)
        written = made.graph.node.add()
        written.CopyFrom(node)
        if read:
            written.input[:] = [operands[name].name if name in read else name for name in node.input]
    read_somewhere = {name for node in nodes(made) for name in node.input} | {one.name for one in made.graph.output}
    kept = [tensor for tensor in made.graph.initializer if tensor.name in read_somewhere]
    del made.graph.initializer[:]
    made.graph.initializer.extend(kept)
    return made
