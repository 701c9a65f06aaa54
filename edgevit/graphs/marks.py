"""Marks on the nodes of a graph, by which its nodes are found again in what a runtime has made of it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

from onnx import ModelProto, NodeProto

from edgevit.graphs.graph import Graph
from edgevit.graphs.index import GraphIndex
from edgevit.graphs.kernels import completed

# Every fusion of ONNX Runtime and OpenVINO keeps the name of a node, with a prefix or suffix.
_MARK = re.compile(r"edgevit_(\d+)_")
_LAYOUTS = {"ReorderInput", "ReorderOutput", "Transpose"}
_OWN_LAYOUT = "_nchwc"  # ONNX Runtime names a convolution in its own layout after the tensor that it made


def marked(model: ModelProto) -> ModelProto:
    """A copy whose nodes are named after their places in the graph."""
    copy = ModelProto()
    copy.CopyFrom(model)
    for index, node in enumerate(copy.graph.node):
        node.name = f"edgevit_{index}_"
    return copy


def marks_in(name: str) -> list[int]:
    """The places of the nodes whose marks are in a name."""
    return [int(index) for index in _MARK.findall(name)]


def sources_of(optimized: GraphIndex, source: Graph) -> dict[str, tuple[str, ...]]:
    """The nodes of a graph that each node of the optimized graph computes, by the optimized node's name.

    They are the nodes that its name tells, the nodes that make its outputs, the nodes between the tensors that
    it reads and writes, if all of these tensors are in the source, and the fused nodes that `completed` adds. A node
    that the runtime has added (a change of layout) has none.

    Args:
        optimized: what the runtime has made of `marked(source.model)`.
    """
    named = [_named(node, source) for node in optimized.nodes]
    everywhere = set[int]().union(*named)
    told = []
    for node, own in zip(optimized.nodes, named, strict=True):
        between = _between(node.output, {*node.input}, source, everywhere - own)
        told.append(own | (_makers(node, source) - everywhere) | between)
    return {
        node.name: tuple(source.nodes[place].name for place in places)
        for node, places in zip(optimized.nodes, completed(told, source), strict=True)
    }


def shown_name(name: str, nodes: Sequence[str], source: Graph) -> str:
    """The name of a runtime's layer for people: the node whose mark it has, or else its first node, or its own name."""
    marks = marks_in(name)
    return source.nodes[marks[0]].name if marks else next(iter(nodes), name)


def _named(node: NodeProto, source: Graph) -> set[int]:
    """The places of the source's nodes that a name tells, by marks or by a tensor."""
    made = source.maker.get(node.name.removesuffix(_OWN_LAYOUT)) if node.name.endswith(_OWN_LAYOUT) else None
    return {*marks_in(node.name), *([source.places[made.name]] if made is not None else [])}


def _makers(node: NodeProto, source: Graph) -> set[int]:
    """The places of the source's nodes that make the tensors which a node makes. A change of layout makes none anew."""
    makers = [maker for name in node.output if (maker := source.maker.get(name)) is not None]
    return {source.places[one.name] for one in makers if node.op_type not in _LAYOUTS or one.op_type == node.op_type}


def _between(outputs: Iterable[str], inputs: Collection[str], source: Graph, others: Collection[int]) -> set[int]:
    """The places of the nodes that make `outputs` of `inputs` and constants; none if others have a part in it."""
    waiting, found = [name for name in outputs if name], set[int]()
    while waiting:
        name = waiting.pop()
        if name in inputs or name in source.constants:
            continue
        maker = source.maker.get(name)
        if maker is None or (place := source.places[maker.name]) in others:
            return set()
        if place not in found:
            found.add(place)
            waiting += [read for read in maker.input if read]
    return found
