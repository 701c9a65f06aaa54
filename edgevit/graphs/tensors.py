"""Tensors of an ONNX graph: constants and weights, types and shapes."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.shape_inference
from onnx import ModelProto, TensorProto

from edgevit.graphs.guard import with_inferred_shapes
from edgevit.graphs.types import BITS, short_type_name
from edgevit.graphs.walk import nodes


def inputs_of(model: ModelProto) -> list[onnx.ValueInfoProto]:
    """The graph's inputs, without weights that old files list among them."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def shapes_of_weights(model: ModelProto) -> dict[str, tuple[int, ...]]:
    """The shape of each initializer, by its name."""
    return {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}


def float_weights(model: ModelProto) -> dict[str, tuple[int, ...]]:
    """The shape of each float32 initializer that is not empty, by its name."""
    float_tensors = (tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT)
    return {tensor.name: tuple(tensor.dims) for tensor in float_tensors if 0 not in tensor.dims}


def without_unread_weights(model: ModelProto) -> ModelProto:
    """The model, in place, without initializers that no node reads and that are not outputs."""
    read = {name for node in nodes(model) for name in node.input} | {output.name for output in model.graph.output}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model


def types_and_shapes(model: ModelProto) -> tuple[dict[str, int], dict[str, tuple[int | None, ...]]]:
    """The inferred element type of each tensor of the main graph, and its shape, with None for an open size."""
    inferred = with_inferred_shapes(model).graph
    types, shapes = {}, {}
    existing = {tensor.name for tensor in model.graph.initializer}.union(*(node.output for node in model.graph.node))
    infos = [
        value for value in inferred.value_info if value.name in existing
    ]  # value_info may name tensors that do not exist
    for value in (*infos, *inferred.input, *inferred.output):
        tensor = value.type.tensor_type
        types[value.name] = tensor.elem_type
        if tensor.HasField("shape"):
            shapes[value.name] = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim)
    return types, shapes


def constants_of(model: ModelProto) -> dict[str, TensorProto]:
    """The constant tensors of the main graph by their names: initializers, and tensors of Constant nodes."""
    of_nodes = {node.output[0]: tensor for node in model.graph.node if (tensor := _constant_tensor(node)) is not None}
    return {tensor.name: tensor for tensor in model.graph.initializer} | of_nodes


def bytes_of_constant(tensor: TensorProto) -> int:
    """Bytes of a stored tensor."""
    return math.ceil(math.prod(map(int, tensor.dims)) * BITS.get(short_type_name(tensor.data_type), 32) / 8)


def with_stored_constants(model: ModelProto) -> ModelProto:
    """The model, in place, with initializers instead of the Constant nodes of the main graph.

    A Constant node whose output is an output of the graph stays.
    """
    outputs = {value.name for value in model.graph.output}
    kept = []
    for node in model.graph.node:
        tensor = _constant_tensor(node)
        if tensor is None or node.output[0] in outputs:
            kept.append(node)
        else:
            stored = model.graph.initializer.add()
            stored.CopyFrom(tensor)
            stored.name = node.output[0]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model


def _constant_tensor(node: onnx.NodeProto) -> TensorProto | None:
    """The tensor of a Constant node; None for any other node, and for text or sparse tensors."""
    if node.op_type != "Constant" or node.domain or not node.attribute:
        return None
    attribute = node.attribute[0]
    if attribute.name == "value":
        stored: TensorProto = attribute.t
        return stored
    numbers = {
        "value_float": np.float32(attribute.f),
        "value_floats": np.asarray(attribute.floats, np.float32),
        "value_int": np.int64(attribute.i),
        "value_ints": np.asarray(attribute.ints, np.int64),
    }
    value = numbers.get(attribute.name)
    return None if value is None else onnx.numpy_helper.from_array(np.asarray(value), node.output[0])
