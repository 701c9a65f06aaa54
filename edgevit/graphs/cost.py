"""What a graph costs on paper, by its shapes: multiply-accumulates, bytes of weights, memory of activations."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass

from onnx import NodeProto

from edgevit.graphs.graph import CONVOLUTIONS, OPERANDS, Graph
from edgevit.graphs.types import BITS, short_type_name, type_name
from edgevit.graphs.walk import integer_attribute

# Their output is a view of what they read; a kernel reads as integers what is dequantized for it.
VIEWS = ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "DequantizeLinear")


@dataclass(frozen=True)
class Peak:
    """The most that activations take at once, in bytes, and the node at which they do."""

    bytes: int
    node: str


def macs(node: NodeProto, graph: Graph) -> int | None:
    """Multiply-accumulates of a product or convolution, as models.cost counts them; None where a size is open.

    A convolution: each number of the output sums over the kernel and the inputs of its group. A matrix product: over
    the side that the operands share. A transposed convolution: each number of the input goes to as many as that.
    Attention is two matrix products.
    """
    first, second = (_sizes(graph, node.input[place]) for place in OPERANDS[node.op_type])
    output = _sizes(graph, node.output[0])
    if first is None or second is None or output is None:
        return None
    if node.op_type in CONVOLUTIONS:
        return math.prod(output) * math.prod(second[1:])
    if node.op_type == "ConvTranspose":
        return math.prod(first) * math.prod(second[1:])
    if node.op_type == "Attention":
        # Queries (…, tokens, width) by keys (…, others, width), then their weights by values.
        return (math.prod(first) + math.prod(output)) * second[-2] if node.domain == "" else None
    shared = first[-2 if integer_attribute(node, "transA", 0) else -1]
    return math.prod(output) * shared


def weights_bytes(graph: Graph) -> dict[str, int]:
    """Bytes of the graph's constants by their type, most first."""
    found: Counter[str] = Counter()
    for tensor in graph.constants.values():
        found[type_name(tensor.data_type)] += _bytes(tuple(tensor.dims), tensor.data_type)
    return dict(found.most_common())


def peak_activations(graph: Graph) -> Peak | None:
    """The most that activations take at once where nodes run in the graph's order; None where a shape is not known.

    A tensor lives from the node that makes it to the last one that reads it or a view of it; inputs live from the
    start, outputs to the end. A runtime that fuses or reuses buffers takes less, one that unpacks weights more.
    """
    constant, owner = _constant(graph), _owners(graph)
    outputs = {owner.get(value.name, value.name) for value in graph.model.graph.output}
    last_read = {owner.get(name, name): index for index, node in enumerate(graph.nodes) for name in node.input if name}
    made = [value.name for value in graph.model.graph.input if value.name not in graph.constants]
    ending: defaultdict[int, list[int]] = defaultdict(list)
    alive, peak = 0, None
    for index, node in enumerate(graph.nodes):
        made += [name for name in node.output if name and name not in constant and owner.get(name, name) == name]
        for name in made:
            if (size := _bytes_of(name, graph)) is None:
                return None
            alive += size
            if name not in outputs:
                ending[max(index, last_read.get(name, index))].append(size)
        if peak is None or alive > peak.bytes:
            peak = Peak(alive, node.name)
        alive -= sum(ending[index])
        made = []
    return peak


def _constant(graph: Graph) -> set[str]:
    """Tensors that no input enters: weights and what is made of them alone."""
    found = set(graph.constants)
    for node in graph.nodes:
        if all(name in found for name in node.input if name):
            found.update(node.output)
    return found


def _owners(graph: Graph) -> dict[str, str]:
    """The tensor whose memory each view shows."""
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
    return None if sizes is None or element is None else _bytes(sizes, element)


def _bytes(sizes: list[int] | tuple[int, ...], element: int) -> int:
    return math.ceil(math.prod(sizes) * BITS.get(short_type_name(element), 32) / 8)
