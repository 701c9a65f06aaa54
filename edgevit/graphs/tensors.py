"""Tensors of an ONNX graph: its constants and weights, types and shapes."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.shape_inference
from onnx import ModelProto, TensorProto

from edgevit.graphs.guard import with_inferred_shapes
from edgevit.graphs.walk import nodes


def inputs_of(model: ModelProto) -> list[onnx.ValueInfoProto]:
    """The graph's inputs, without the weights that old files list among them."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def shapes_of_weights(model: ModelProto) -> dict[str, tuple[int, ...]]:
    """The shape of each initializer, by its name."""
    return {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}


def float_weights(model: ModelProto) -> dict[str, tuple[int, ...]]:
    """The shape of each float32 initializer that holds any numbers, by its name."""
    stored = model.graph.initializer
    return {one.name: tuple(one.dims) for one in stored if one.data_type == TensorProto.FLOAT and 0 not in one.dims}


def without_unread_weights(model: ModelProto) -> ModelProto:
    """The model, in place, without initializers that no node reads and that are no output."""
    read = {name for node in nodes(model) for name in node.input} | {output.name for output in model.graph.output}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model


def types_and_shapes(model: ModelProto) -> tuple[dict[str, int], dict[str, tuple[int | None, ...]]]:
    """The element type of each tensor of the main graph, and its shape with None for an open size, where inferred."""
    inferred = with_inferred_shapes(model).graph
    types, shapes = {}, {}
    existing = {tensor.name for tensor in model.graph.initializer}.union(*(node.output for node in model.graph.node))
    infos = [value for value in inferred.value_info if value.name in existing]  # a file may type what it does not hold
    for value in (*infos, *inferred.input, *inferred.output):
        tensor = value.type.tensor_type
        types[value.name] = tensor.elem_type
        if tensor.HasField("shape"):
            shapes[value.name] = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim)
    return types, shapes


def constants_of(model: ModelProto) -> dict[str, TensorProto]:
    """The constant tensors of the main graph by their names: initializers, and what Constant nodes hold."""
    made = {node.output[0]: tensor for node in model.graph.node if (tensor := _held_by(node)) is not None}
    return {tensor.name: tensor for tensor in model.graph.initializer} | made


def with_stored_constants(model: ModelProto) -> ModelProto:
    """The model, in place, with what Constant nodes of the main graph hold as initializers.

    A Constant node that makes an output of the graph stays.
    """
    outputs = {value.name for value in model.graph.output}
    others = []
    for node in model.graph.node:
        tensor = _held_by(node)
        if tensor is None or node.output[0] in outputs:
            others.append(node)
        else:
            stored = model.graph.initializer.add()
            stored.CopyFrom(tensor)
            stored.name = node.output[0]
    del model.graph.node[:]
    model.graph.node.extend(others)
    return model


def _held_by(node: onnx.NodeProto) -> TensorProto | None:
    """The tensor of a Constant node; None for other nodes, and for text or sparse tensors."""
    if node.op_type != "Constant" or node.domain or not node.attribute:
        return None
    attribute = node.attribute[0]
    if attribute.name == "value":
        held: TensorProto = attribute.t
        return held
    numbers = {
        "value_float": np.float32(attribute.f),
        "value_floats": np.asarray(attribute.floats, np.float32),
        "value_int": np.int64(attribute.i),
        "value_ints": np.asarray(attribute.ints, np.int64),
    }
    found = numbers.get(attribute.name)
    return None if found is None else onnx.numpy_helper.from_array(np.asarray(found), node.output[0])
