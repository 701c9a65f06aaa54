"""The module of the network that each node of an ONNX graph comes from."""

from __future__ import annotations

import re
from collections.abc import Iterable

from onnx import NodeProto

from edgevit.graphs.graph import OPERANDS, Graph

_WEIGHT = re.compile(r"^(?P<module>.+)\.(?:weight|bias)(?:_quantized)?$")
_SCOPES = "pkg.torch.onnx.name_scopes"  # of a node, from torch's exporter: "['', 'blocks.0', 'blocks.0.norm1', …]"
_SCOPE = re.compile(r"'([^']*)'")


def module_paths(graph: Graph) -> dict[str, str]:
    """The path of each node's module, such as blocks.0.attn.qkv, by the node's name; "" if it is not known.

    The exporter tells it, or the name of the node's weight. Any other node (a softmax, an addition) lies between two
    modules, the last before it and the first behind it: it is taken for a part of the module that holds both.
    """
    told = {node.name: _told(node, graph) for node in graph.nodes}
    order = graph.places
    before, behind = dict[str, str](), dict[str, str]()
    for node in graph.nodes:
        makers = (graph.maker[name] for name in node.input if name in graph.maker)
        before[node.name] = _nearest(sorted(makers, key=lambda maker: -order[maker.name]), told, before)
    for node in reversed(graph.nodes):
        readers = (reader for name in node.output for reader in graph.readers.get(name, ()))
        behind[node.name] = _nearest(sorted(readers, key=lambda reader: order[reader.name]), told, behind)
    return {name: path or _common(before[name], behind[name]) for name, path in told.items()}


def _told(node: NodeProto, graph: Graph) -> str:
    scopes = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), "")
    if len(paths := _SCOPE.findall(scopes)) > 1:
        return str(paths[-2])
    if node.name.startswith("/"):
        return _of_torchscript(node.name.split("/")[1:-1])
    if (
        node.op_type in OPERANDS and "." in node.name and "/" not in node.name
    ):  # edgevit's export names products after their layers
        return node.name
    constants = (_stored(name, graph) for name in node.input)
    own = (name for name in constants if len(graph.readers[name]) == 1)  # equal weights of several layers are one
    return next((found["module"] for name in own if (found := _WEIGHT.match(name))), "")


def _stored(name: str, graph: Graph) -> str:
    """The name of the constant in a tensor: a quantized weight is dequantized first."""
    end = graph.pair_end(name)
    return end.input[0] if end is not None and end.input[0] in graph.constants else name


def _of_torchscript(scopes: Iterable[str]) -> str:
    """blocks.0.attn.qkv of /blocks/blocks.0/attn/qkv/MatMul: a child of a list has the list's name, too."""
    path = list[str]()
    for scope in scopes:
        if path and scope.startswith(f"{path[-1]}."):
            path.pop()
        path.append(scope)
    return ".".join(path)


def _nearest(neighbors: Iterable[NodeProto], told: dict[str, str], theirs: dict[str, str]) -> str:
    """The path of the first neighbor that tells one, or else of that neighbor's own nearest."""
    return next((path for node in neighbors if (path := told[node.name] or theirs[node.name])), "")


def _common(first: str, second: str) -> str:
    """The path of the module that holds both modules. Where one is not known, the other."""
    if not (first and second):
        return first or second
    shared = list[str]()
    for one, other in zip(first.split("."), second.split("."), strict=False):
        if one != other:
            break
        shared.append(one)
    return ".".join(shared)
