"""An ONNX graph in 16-bit floats."""

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
FLOAT32 = "/edgevit_float32"  # ends the names of copies
LARGEST = 65504.0
PAIR = ("QuantizeLinear", "DequantizeLinear")
DIVISORS = {
    "Clip": (1, 3), "DequantizeLinear": (1, 2), "Div": (1, 2), "Log": (0, 1), "QuantizeLinear": (1, 2),
    "Reciprocal": (0, 1), "Sqrt": (0, 1),
}  # fmt: skip
COARSE = 2.0**-17  # float16 has fewer than 128 steps below it, as many as int8


def squares_in(node: NodeProto) -> str:
    """A name for the squares that a norm computes inside; "" for other operators."""
    return f"{node.input[0]}²" if node.op_type in NORMS else ""


def divisors_of(node: NodeProto) -> list[str]:
    """A node's inputs whose small values weigh: what it divides by, takes a root of, or keeps values above."""
    first, end = DIVISORS.get(node.op_type, (0, 0))
    return list(node.input[first:end])


def with_float16(model: ModelProto, where: object, kept: Collection[str] = ()) -> ModelProto:
    """A copy of a float32 graph whose inner floats have 16 bits, weights and scales too; inputs and outputs keep 32.

    In float32, between casts, stay operators without a 16-bit form in ONNX Runtime, written-out norms, and what makes
    or reads a tensor that float16 does not hold: `kept` ones, constants beyond 65504, and divisors, scales and bounds
    below 2⁻¹⁷.

    Args:
        where: what errors name.
        kept: names of tensors, see `float16_range.beyond_float16`.

    Raises:
        ArtifactError: the converter makes no valid graph of it.
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
    """Names of the nodes that stay in float32; in place, they get constants and DequantizeLinear nodes of their own."""
    large, small = _constants_beyond(model)
    tensors = {*kept, *(name for norm in written_out_norms(model) for name in norm.inner)}
    for node in model.graph.node:  # in order: a Q/DQ pair gives back what enters it
        is_such_pair = node.op_type in PAIR and (node.input[0] in tensors or node.input[1] in small)
        if is_such_pair or large.intersection(node.input):
            tensors.update(node.output)
    tensors.discard("")  # an output that a node leaves out
    wide = [
        node
        for node in model.graph.node
        if tensors & {*node.input, *node.output, squares_in(node)} or small & set(divisors_of(node))
    ]
    wide += _own_dequantizers(model, wide)
    _give_own_constants(model, wide)
    return [node.name for node in wide]


def _constants_beyond(model: ModelProto) -> tuple[set[str], set[str]]:
    """Names of float32 constants with a value beyond 65504, and of those whose values are all below 2⁻¹⁷ and not 0."""
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
    """The DequantizeLinear nodes that float32 nodes read, each a copy where a float16 node reads it too."""
    makers = {node.output[0]: node for node in model.graph.node if node.op_type == "DequantizeLinear"}
    taken = {node.name for node in wide}
    shared = read_elsewhere(model).union(
        name for node in model.graph.node if node.name not in taken for name in node.input
    )
    own: dict[str, NodeProto] = {}
    for node in wide:
        for place, name in enumerate(node.input):
            if name not in makers or makers[name].name in taken:
                continue
            if name not in own:
                own[name] = _copied(makers[name], model) if name in shared else makers[name]
            node.input[place] = own[name].output[0]
    return list(own.values())


def _copied(node: NodeProto, model: ModelProto) -> NodeProto:
    place = list(model.graph.node).index(node)
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.name, copy.output[0] = f"{node.name}{FLOAT32}", f"{node.output[0]}{FLOAT32}"
    model.graph.node.insert(place + 1, copy)
    inserted: NodeProto = model.graph.node[place + 1]
    return inserted


def _give_own_constants(model: ModelProto, wide: list[NodeProto]) -> None:
    """Constants that float16 nodes read as well would be rounded for both."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    names = {node.name for node in wide}
    halved = {name for node in model.graph.node if node.name not in names for name in node.input} & stored.keys()
    own: dict[str, str] = {}
    for node in wide:
        for place, name in enumerate(node.input):
            if name not in halved:
                continue
            if name not in own:
                own[name] = f"{name}{FLOAT32}"
                copy = model.graph.initializer.add()
                copy.CopyFrom(stored[name])
                copy.name = own[name]
            node.input[place] = own[name]


def _drop_repeated(model: ModelProto) -> None:
    """The converter writes a cast anew for each reader that wants 32 bits, all with the same output."""
    by_outputs = {tuple(node.output): node for node in model.graph.node}
    kept = list(by_outputs.values())
    del model.graph.node[:]
    model.graph.node.extend(kept)


def _drop_round_trips(model: ModelProto) -> None:
    """Between two float32 nodes the converter casts to float16 and back: let the second read what the first makes."""
    makers = {node.output[0]: node for node in model.graph.node if node.op_type == "Cast"}
    exact = dict(_round_trips(makers))
    outputs = {output.name for output in model.graph.output}
    given_out = {exact[name]: name for name in exact if name in outputs}
    renamed = {name: given_out.get(source, source) for name, source in exact.items()} | given_out
    kept = [node for node in model.graph.node if not (node.op_type == "Cast" and node.output[0] in exact)]
    for node in kept:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    read = read_elsewhere(model).union(name for node in kept for name in node.input)
    del model.graph.node[:]
    model.graph.node.extend(node for node in kept if node.op_type != "Cast" or node.output[0] in read)


def _round_trips(casts: Mapping[str, NodeProto]) -> Iterator[tuple[str, str]]:
    """The output of each cast back to float32, and the tensor that the converter cast to float16 before."""
    for output, back in casts.items():
        there = casts.get(back.input[0])
        is_converters = there is not None and there.name.endswith("_cast_to_fp16_node")
        if there is not None and is_converters and _target(back) == TensorProto.FLOAT:
            yield output, there.input[0]


def _target(cast: NodeProto) -> int:
    return next((attribute.i for attribute in cast.attribute if attribute.name == "to"), 0)
