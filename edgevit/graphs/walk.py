"""Every node of an ONNX graph, those inside other nodes too, in an order in which they can run."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto


def nodes(model: ModelProto) -> Iterator[NodeProto]:
    """Every node of the graph, of its subgraphs and of the model's functions."""
    yield from nodes_of(model.graph.node)
    for function in model.functions:
        yield from nodes_of(function.node)


def nodes_of(some: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """Nodes, and the nodes of the subgraphs in their attributes."""
    for node in some:
        yield node
        for graph in subgraphs_of(node):
            yield from nodes_of(graph.node)


def subgraphs_of(node: NodeProto) -> Iterator[GraphProto]:
    """The subgraphs in a node's own attributes: the branches of If, the bodies of Loop and Scan."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def graphs_of(model: ModelProto) -> Iterator[GraphProto]:
    """The main graph and every subgraph, those of the model's functions too."""
    yield model.graph
    for node in nodes(model):
        yield from subgraphs_of(node)


def stored_tensors(model: ModelProto) -> Iterator[TensorProto]:
    """All that a model stores: initializers and attributes, those of subgraphs too."""
    for graph in graphs_of(model):
        yield from graph.initializer
    for node in nodes(model):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def names_read(node: NodeProto) -> Iterator[str]:
    """Names of the tensors that a node reads, and of the tensors that its subgraphs read."""
    for inner in nodes_of([node]):
        yield from filter(None, inner.input)
    for inner in nodes_of([node]):
        for graph in subgraphs_of(inner):
            yield from (output.name for output in graph.output)


def sort_nodes(model: ModelProto) -> None:
    """Put the nodes of the main graph and of each subgraph, in place, into an order in which they can run.

    A node comes behind the nodes whose tensors it or its subgraphs read. Nodes that may stand in any order keep theirs.
    Nodes on a cycle come last.
    """
    for graph in graphs_of(model):
        order = _order(list(graph.node))
        if order != list(range(len(order))):
            ordered = [graph.node[place] for place in order]
            del graph.node[:]
            graph.node.extend(ordered)


def _order(some: list[NodeProto]) -> list[int]:
    maker = {name: place for place, node in enumerate(some) for name in node.output if name}
    waits_for = [{maker[name] for name in names_read(node) if name in maker} for node in some]
    readers: list[list[int]] = [[] for _ in some]
    for place, makers in enumerate(waits_for):
        for one in makers:
            readers[one].append(place)
    left = [len(makers) for makers in waits_for]
    ready = [place for place, number in enumerate(left) if not number]
    order = []
    while ready:
        place = heapq.heappop(ready)
        order.append(place)
        for reader in readers[place]:
            left[reader] -= 1
            if not left[reader]:
                heapq.heappush(ready, reader)
    done = set(order)
    return order + [place for place in range(len(some)) if place not in done]


def operator_counts(model: ModelProto) -> Counter[str]:
    """How often each operator occurs."""
    return Counter(node.op_type for node in nodes(model))


def read_elsewhere(model: ModelProto) -> set[str]:
    """Names of what others than the main graph's nodes read: the outputs, and what If, Loop and Scan read inside."""
    inside = {name for node in model.graph.node for name in {*names_read(node)} - {*node.input}}
    return inside | {output.name for output in model.graph.output}


def with_unique_node_names(model: ModelProto) -> ModelProto:
    """A copy in which every node has a name of its own, for what knows nodes by their names."""
    named = ModelProto()
    named.CopyFrom(model)
    given = Counter(node.name for node in named.graph.node)
    met: set[str] = set()
    for index, node in enumerate(named.graph.node):
        if not node.name or node.name in met:
            numbers = itertools.count(index)
            node.name = next(name for number in numbers if (name := f"{node.op_type}_{number}") not in given)
            given[node.name] += 1
        met.add(node.name)
    return named


def opset_of(model: ModelProto) -> int:
    """The version of ONNX's own operators; 0 where the model names none."""
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)


def integer_attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    """An attribute of a node, or what it is where the node leaves it out."""
    return next((attribute.i for attribute in node.attribute if attribute.name == name), default)
