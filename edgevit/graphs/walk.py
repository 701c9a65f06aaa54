"""Traversal of an ONNX graph: nodes and tensors, also in subgraphs and functions, and the order of nodes."""

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


def nodes_of(outer_nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """The nodes, and the nodes of the subgraphs in their attributes."""
    for node in outer_nodes:
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
    """The main graph and every subgraph, also of the model's functions."""
    yield model.graph
    for node in nodes(model):
        yield from subgraphs_of(node)


def stored_tensors(model: ModelProto) -> Iterator[TensorProto]:
    """All stored tensors of a model: initializers and attributes, also in subgraphs."""
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

    A node comes after the nodes whose tensors it or its subgraphs read. Otherwise nodes keep their order. Nodes on a
    cycle come last.
    """
    for graph in graphs_of(model):
        order = _order(list(graph.node))
        if order != list(range(len(order))):
            ordered = [graph.node[index] for index in order]
            del graph.node[:]
            graph.node.extend(ordered)


def _order(graph_nodes: list[NodeProto]) -> list[int]:
    """Indices of the nodes in an order in which they can run."""
    maker = {name: index for index, node in enumerate(graph_nodes) for name in node.output if name}
    makers_of = [{maker[name] for name in names_read(node) if name in maker} for node in graph_nodes]
    readers_of: list[list[int]] = [[] for _ in graph_nodes]
    for index, makers in enumerate(makers_of):
        for maker_index in makers:
            readers_of[maker_index].append(index)
    missing = [len(makers) for makers in makers_of]
    ready = [index for index, count in enumerate(missing) if not count]
    order = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for reader in readers_of[index]:
            missing[reader] -= 1
            if not missing[reader]:
                heapq.heappush(ready, reader)
    ordered = set(order)
    return order + [index for index in range(len(graph_nodes)) if index not in ordered]


def operator_counts(model: ModelProto) -> Counter[str]:
    """The number of nodes of each operator."""
    return Counter(node.op_type for node in nodes(model))


def read_elsewhere(model: ModelProto) -> set[str]:
    """Names of the graph's outputs, and of the tensors that the subgraphs of If, Loop and Scan read."""
    inside = {name for node in model.graph.node for name in {*names_read(node)} - {*node.input}}
    return inside | {output.name for output in model.graph.output}


def with_unique_node_names(model: ModelProto) -> ModelProto:
    """A copy in which every node of the main graph has a unique name."""
    named = ModelProto()
    named.CopyFrom(model)
    names = Counter(node.name for node in named.graph.node)
    seen: set[str] = set()
    for index, node in enumerate(named.graph.node):
        if not node.name or node.name in seen:
            numbers = itertools.count(index)
            node.name = next(name for number in numbers if (name := f"{node.op_type}_{number}") not in names)
            names[node.name] += 1
        seen.add(node.name)
    return named


def opset_of(model: ModelProto) -> int:
    """The version of ONNX's own operators; 0 if the model imports none."""
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)


def integer_attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    """The integer attribute `name` of a node; `default` if the node does not set it."""
    return next((attribute.i for attribute in node.attribute if attribute.name == name), default)
