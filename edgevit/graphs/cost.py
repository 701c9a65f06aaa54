"""The cost of a graph, computed from its shapes: multiply-accumulates, bytes of weights, memory of activations."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass

from onnx import NodeProto

from edgevit.graphs.graph import CONVOLUTIONS, OPERANDS, Graph
from edgevit.graphs.tensors import bytes_of_constant
from edgevit.graphs.types import BITS, short_type_name, type_name
from edgevit.graphs.walk import integer_attribute

# Operators whose output is a view of their input. DequantizeLinear is one: kernels read the integers.
VIEWS = ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "DequantizeLinear")


@dataclass(frozen=True)
class Peak:
    """The highest memory of activations, in bytes, and the node at which it occurs."""

    bytes: int
    node: str


def macs(node: NodeProto, graph: Graph) -> int | None:
    """Multiply-accumulates of a product or convolution, as models.cost counts them; None if a size is open.

    For each element of the output, a convolution sums over the kernel and the input channels of its group, and a matrix
    product sums over the axis that the operands share. A transposed convolution multiplies each element of the input by
    the kernel and the output channels of its group. Attention is two matrix products.
    """
    first, second = (_sizes(graph, node.input[position]) for position in OPERANDS[node.op_type])
    output = _sizes(graph, node.output[0])
    if first is None or second is None or output is None:
        return None
    if node.op_type in CONVOLUTIONS:
        return math.prod(output) * math.prod(second[1:])
    if node.op_type == "ConvTranspose":
        return math.prod(first) * math.prod(second[1:])
    if node.op_type == "Attention":
        # Queries (…, tokens, width) by keys (…, keys, width), then attention weights by values.
        return (math.prod(first) + math.prod(output)) * second[-2] if node.domain == "" else None
    shared = first[-2 if integer_attribute(node, "transA", 0) else -1]
    return math.prod(output) * shared


def weights_bytes(graph: Graph) -> dict[str, int]:
    """Bytes of the graph's constants by their type, most first."""
    by_type: Counter[str] = Counter()
    for tensor in graph.constants.values():
        by_type[type_name(tensor.data_type)] += bytes_of_constant(tensor)
    return dict(by_type.most_common())


def peak_activations(graph: Graph) -> Peak | None:
    """The highest memory of activations if nodes run in the order of the graph; None if a shape is unknown.

    A tensor lives from the node that makes it to the last node that reads it or a view of it. Inputs live from the
    start, outputs to the end. A runtime that fuses nodes or reuses buffers needs less memory. A runtime that unpacks
    weights needs more.
    """
    constant, owner = _constant(graph), _owners(graph)
    outputs = {owner.get(value.name, value.name) for value in graph.model.graph.output}
    last_read = {owner.get(name, name): index for index, node in enumerate(graph.nodes) for name in node.input if name}
    new_tensors = [value.name for value in graph.model.graph.input if value.name not in graph.constants]
    freed_after: defaultdict[int, list[int]] = defaultdict(list)
    live_bytes, peak = 0, None
    for index, node in enumerate(graph.nodes):
        new_tensors += [name for name in node.output if name and name not in constant and owner.get(name, name) == name]
        for name in new_tensors:
            if (size := _bytes_of(name, graph)) is None:
                return None
            live_bytes += size
            if name not in outputs:
                freed_after[max(index, last_read.get(name, index))].append(size)
        if peak is None or live_bytes > peak.bytes:
            peak = Peak(live_bytes, node.name)
        live_bytes -= sum(freed_after[index])
        new_tensors = []
    return peak


def _constant(graph: Graph) -> set[str]:
    """Names of the tensors that depend on no input: weights, and tensors computed from weights alone."""
    constant = set(graph.constants)
    for node in graph.nodes:
        if all(name in constant for name in node.input if name):
            constant.update(node.output)
    return constant


def _owners(graph: Graph) -> dict[str, str]:
    """The name of the tensor in whose memory each view lies."""
    owner: dict[str, str] = {}
    for node in graph.of_type(*VIEWS):
        owner[node.output[0]] = owner.get(node.input[0], node.input[0])
    return owner


def _sizes(graph: Graph, name: str) -> list[int] | None:
    shape = graph.shape(name)
    if shape is None or None in shape:
        return None
    return [size for size in shape if size is not None]


def _bytes_of(name: str, graph: Graph) -> int | None:
    sizes, element = _sizes(graph, name), graph.element_type(name)
    if sizes is None or element is None:
        return None
    return math.ceil(math.prod(sizes) * BITS.get(short_type_name(element), 32) / 8)
