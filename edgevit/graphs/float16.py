"""Conversion of an ONNX graph to float16."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import numpy as np
import onnx
import onnx.checker
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.transformers.float16 import convert_float_to_float16

from edgevit.graphs.guard import graph_tool
from edgevit.graphs.norms import written_out_norms
from edgevit.graphs.tensors import constants_of, with_stored_constants
from edgevit.graphs.walk import read_elsewhere, sort_nodes, with_unique_node_names

NORMS = (
    "GroupNormalization", "InstanceNormalization", "LayerNormalization", "LpNormalization", "MeanVarianceNormalization",
    "RMSNormalization", "SimplifiedLayerNormalization", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization",
)  # fmt: skip
COPY_SUFFIX = "/edgevit_float32"
LARGEST = 65504.0  # finite float16
PAIR = ("QuantizeLinear", "DequantizeLinear")
# The range of an operator's inputs (first, end) whose small values matter: divisors, scales and bounds.
DIVISORS = {
    "Clip": (1, 3), "DequantizeLinear": (1, 2), "Div": (1, 2), "Log": (0, 1), "QuantizeLinear": (1, 2),
    "Reciprocal": (0, 1), "Sqrt": (0, 1),
}  # fmt: skip
COARSE = 2.0**-17  # below it float16 has fewer than 128 steps, the number of int8's magnitudes


def squares_in(node: NodeProto) -> str:
    """A name for the squares that a norm computes inside; "" for other operators."""
    return f"{node.input[0]}²" if node.op_type in NORMS else ""


def divisors_of(node: NodeProto) -> list[str]:
    """A node's inputs whose small values matter: divisors, scales, radicands and bounds."""
    first, end = DIVISORS.get(node.op_type, (0, 0))
    return list(node.input[first:end])


def with_float16(model: ModelProto, where: object, kept: Collection[str] = ()) -> ModelProto:
    """A copy of a float32 graph with float16 tensors, weights and scales inside, and float32 inputs and outputs.

    Some nodes stay in float32, between casts: operators without a 16-bit form in ONNX Runtime, written-out norms, and
    nodes that make or read a tensor outside the range of float16. These tensors are `kept`, constants beyond 65504, and
    divisors, scales and bounds below 2⁻¹⁷.

    Args:
        where: the file or stage, for errors.
        kept: names of tensors, see `float16_range.beyond_float16`.

    Raises:
        ArtifactError: the converter does not write a valid graph.
    """
    source = with_stored_constants(with_unique_node_names(model))
    wide = _float32_nodes(source, kept)
    with graph_tool("the graph cannot be written in float16", where, next="leave it in float32"):
        converted = ONNXModel(convert_float_to_float16(source, keep_io_types=True, node_block_list=wide))
        _drop_repeated(converted.model)
        _drop_round_trips(converted.model)
        del converted.model.graph.value_info[:]  # the converter leaves wrong types in it
        sort_nodes(converted.model)
        onnx.checker.check_model(converted.model, full_check=True)
    half: ModelProto = converted.model
    return half


def _float32_nodes(model: ModelProto, kept: Collection[str]) -> list[str]:
    """Names of the nodes that stay in float32. In place, they get their own constants and DequantizeLinear nodes."""
    large, small = _constants_beyond(model)
    tensors = {*kept, *(name for norm in written_out_norms(model) for name in norm.inner)}
    for node in model.graph.node:  # in order: the output of a Q/DQ pair has the values of its input
        keeps_values = node.op_type in PAIR and (node.input[0] in tensors or node.input[1] in small)
        if keeps_values or large.intersection(node.input):
            tensors.update(node.output)
    tensors.discard("")  # the name of an omitted output
    wide = [
        node
        for node in model.graph.node
        if tensors & {*node.input, *node.output, squares_in(node)} or small & set(divisors_of(node))
    ]
    wide += _own_dequantizers(model, wide)
    _give_own_constants(model, wide)
    return [node.name for node in wide]


def _constants_beyond(model: ModelProto) -> tuple[set[str], set[str]]:
    """Names of float32 constants with a value beyond 65504, and with all values below 2⁻¹⁷, but not all 0."""
    large, small = set(), set()
    for name, tensor in constants_of(model).items():
        if tensor.data_type == TensorProto.FLOAT:
            magnitudes = np.abs(numpy_helper.to_array(tensor))
            largest = magnitudes[np.isfinite(magnitudes)].max(initial=0.0)
            if largest > LARGEST:
                large.add(name)
            elif 0 < largest < COARSE:
                small.add(name)
    return large, small


def _own_dequantizers(model: ModelProto, wide: list[NodeProto]) -> list[NodeProto]:
    """The DequantizeLinear nodes that float32 nodes read; a copy of each that a float16 node reads too."""
    makers = {node.output[0]: node for node in model.graph.node if node.op_type == "DequantizeLinear"}
    wide_names = {node.name for node in wide}
    shared = read_elsewhere(model).union(
        name for node in model.graph.node if node.name not in wide_names for name in node.input
    )
    own: dict[str, NodeProto] = {}
    for node in wide:
        for position, name in enumerate(node.input):
            if name not in makers or makers[name].name in wide_names:
                continue
            if name not in own:
                own[name] = _copied(makers[name], model) if name in shared else makers[name]
            node.input[position] = own[name].output[0]
    return list(own.values())


def _copied(node: NodeProto, model: ModelProto) -> NodeProto:
    index = list(model.graph.node).index(node)
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.name, copy.output[0] = f"{node.name}{COPY_SUFFIX}", f"{node.output[0]}{COPY_SUFFIX}"
    model.graph.node.insert(index + 1, copy)
    inserted: NodeProto = model.graph.node[index + 1]
    return inserted


def _give_own_constants(model: ModelProto, wide: list[NodeProto]) -> None:
    """Copy the constants that float16 nodes read too: the converter would round them for both."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    names = {node.name for node in wide}
    halved = {name for node in model.graph.node if node.name not in names for name in node.input} & stored.keys()
    own: dict[str, str] = {}
    for node in wide:
        for position, name in enumerate(node.input):
            if name not in halved:
                continue
            if name not in own:
                own[name] = f"{name}{COPY_SUFFIX}"
                copy = model.graph.initializer.add()
                copy.CopyFrom(stored[name])
                copy.name = own[name]
            node.input[position] = own[name]


def _drop_repeated(model: ModelProto) -> None:
    """Remove repeated casts: the converter writes one with the same output for each float32 reader."""
    by_outputs = {tuple(node.output): node for node in model.graph.node}
    kept = list(by_outputs.values())
    del model.graph.node[:]
    model.graph.node.extend(kept)


def _drop_round_trips(model: ModelProto) -> None:
    """Remove the converter's casts to float16 and back between two float32 nodes."""
    makers = {node.output[0]: node for node in model.graph.node if node.op_type == "Cast"}
    exact = dict(_round_trips(makers))
    outputs = {output.name for output in model.graph.output}
    output_of = {exact[name]: name for name in exact if name in outputs}
    renamed = {name: output_of.get(source, source) for name, source in exact.items()} | output_of
    kept = [node for node in model.graph.node if not (node.op_type == "Cast" and node.output[0] in exact)]
    for node in kept:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    read = read_elsewhere(model).union(name for node in kept for name in node.input)
    del model.graph.node[:]
    model.graph.node.extend(node for node in kept if node.op_type != "Cast" or node.output[0] in read)


def _round_trips(casts: Mapping[str, NodeProto]) -> Iterator[tuple[str, str]]:
    """The output of each cast back to float32, and the tensor that the converter had cast to float16."""
    for output, back in casts.items():
        forth = casts.get(back.input[0])
        is_converters = forth is not None and forth.name.endswith("_cast_to_fp16_node")
        if forth is not None and is_converters and _target(back) == TensorProto.FLOAT:
            yield output, forth.input[0]


def _target(cast: NodeProto) -> int:
    return next((attribute.i for attribute in cast.attribute if attribute.name == "to"), 0)
