"""Emulation of float16: a float32 graph that rounds each tensor that the file declares as float16.

A CPU without half arithmetic computes float16 operators in 32 bits, and fuses some without rounding between them. There
the square of 300 is finite; on other hardware it is infinite.
"""

from __future__ import annotations

from collections.abc import Iterator, Set

import numpy as np
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from edgevit.graphs.guard import with_functions_inlined
from edgevit.graphs.tensors import constants_of, types_and_shapes
from edgevit.graphs.walk import graphs_of, nodes, stored_tensors

HALF, FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT
SQUARE_INSIDE = ("ReduceL2", "ReduceSumSquare")
# Operators whose outputs hold values of their inputs, so that no rounding is needed.
EXACT = {
    "Abs", "Concat", "Constant", "ConstantOfShape", "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "Max",
    "MaxPool", "Min", "Neg", "Pad", "ReduceMax", "ReduceMin", "Relu", "Reshape", "Slice", "SpaceToDepth", "Split",
    "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where",
}  # fmt: skip


def has_float16(model: ModelProto) -> bool:
    """Whether any weight, input, output or cast of a model is float16; otherwise no tensor is."""
    inputs_and_outputs = (*model.graph.input, *model.graph.output)
    return (
        any(tensor.data_type == HALF for tensor in stored_tensors(model))
        or any(value.type.tensor_type.elem_type == HALF for value in inputs_and_outputs)
        or any(_names_half(attribute) for node in nodes(model) for attribute in node.attribute)
    )


def float16_tensors(model: ModelProto) -> set[str]:
    """Names of the float16 tensors of the main graph, including constants."""
    stored = {name: tensor.data_type for name, tensor in constants_of(model).items()}
    return {name for name, number in (*types_and_shapes(model)[0].items(), *stored.items()) if number == HALF}


def in_float32(model: ModelProto) -> ModelProto:
    """A copy of a model with inlined functions, and float32 in place of float16 everywhere."""
    copy = _inlined_copy(model)
    _widen(copy)
    return copy


def rounded_to_float16(model: ModelProto) -> ModelProto:
    """A float32 model that rounds to float16 each tensor of the main graph that is float16 in `model`.

    It gives the overflow, underflow and lost digits of float16 on any CPU. Sums within an operator are float32, as on
    tensor cores. ReduceL2 and ReduceSumSquare are written out, so that their squares are rounded too.
    """
    copy = _inlined_copy(model)
    halves = float16_tensors(copy)
    _widen(copy)
    rounded: list[NodeProto] = []
    for node in copy.graph.node:
        steps = _written_out(node) if node.op_type in SQUARE_INSIDE and node.input[0] in halves else [node]
        halves.update(step.output[0] for step in steps[:-1])
        rounded.extend(node_or_cast for step in steps for node_or_cast in _rounded(step, halves))
    del copy.graph.node[:], copy.graph.value_info[:]
    copy.graph.node.extend(rounded)
    return copy


def _inlined_copy(model: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(with_functions_inlined(model, model.graph.name))
    return copy


def _written_out(node: NodeProto) -> list[NodeProto]:
    """A ReduceL2 or ReduceSumSquare node as Mul, ReduceSum and, for ReduceL2, Sqrt."""
    output = node.output[0]
    squares, total = f"{output}/squares", f"{output}/sum" if node.op_type == "ReduceL2" else output
    reduced = helper.make_node("ReduceSum", [squares, *node.input[1:]], [total])
    reduced.attribute.extend(node.attribute)
    root = [helper.make_node("Sqrt", [total], [output])] if node.op_type == "ReduceL2" else []
    return [helper.make_node("Mul", [node.input[0], node.input[0]], [squares]), reduced, *root]


def _rounded(node: NodeProto, halves: Set[str]) -> Iterator[NodeProto]:
    """A node, followed by casts of its float16 outputs to float16 and back."""
    outputs = [] if node.op_type in EXACT else [name for name in node.output if name in halves]
    exact = {name: f"{name}/before_rounding" for name in outputs}
    wide = NodeProto()
    wide.CopyFrom(node)
    wide.output[:] = [exact.get(name, name) for name in node.output]
    yield wide
    for name in outputs:
        yield helper.make_node("Cast", [exact[name]], [f"{name}/float16"], to=HALF)
        yield helper.make_node("Cast", [f"{name}/float16"], [name], to=FLOAT)


def _widen(model: ModelProto) -> None:
    """Replace each float16 type of a model, in place, by float32."""
    for graph in graphs_of(model):
        for value in (*graph.input, *graph.output, *graph.value_info):
            _widen_type(value)
    for tensor in stored_tensors(model):
        _widen_tensor(tensor)
    for node in nodes(model):
        for attribute in filter(_names_half, node.attribute):
            attribute.i = FLOAT


def _names_half(attribute: AttributeProto) -> bool:
    return attribute.name in ("to", "dtype", "output_dtype", "precision") and attribute.i == HALF


def _widen_type(value: ValueInfoProto) -> None:
    if value.type.tensor_type.elem_type == HALF:
        value.type.tensor_type.elem_type = FLOAT


def _widen_tensor(tensor: TensorProto) -> None:
    if tensor.data_type == HALF:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
