"""What a TensorRT version refuses in an ONNX file, found before the file is sent to the machine that builds it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from onnx import TensorProto

from edgevit.artifacts import Json
from edgevit.checking.check import graph_of
from edgevit.checking.older_parsers import ParserVerdict, full_name, parser_verdicts
from edgevit.checking.rules import tensorrt_diagnostics
from edgevit.configs.runtimes import TENSORRT
from edgevit.errors import ArtifactError, shortened
from edgevit.graphs.files import read_onnx
from edgevit.graphs.graph import Graph
from edgevit.graphs.types import short_type_name
from edgevit.graphs.walk import nodes, opset_of
from edgevit.model_file import TargetInfo
from edgevit.targets.boards.table import has_fp8
from edgevit.targets.boards.versions import version_numbers
from edgevit.targets.trtexec.commands import PLAIN_NAME

TABLES: dict[tuple[int, ...], str] = {
    (10, 3): "10.1"
}  # a version of boards → the nearest version with a published table of operators
MOST_NAMED = 5
FP8 = short_type_name(TensorProto.FLOAT8E4M3FN)


class Refusal(NamedTuple):
    """A node that TensorRT refuses, or does not compute as the file says: why, and the next step."""

    node: str
    what: str
    next: str


def check_before_build(path: Path, machine: TargetInfo, where: str) -> None:
    """Raise ArtifactError if a machine's TensorRT or GPU is known to refuse an ONNX file. The error names the nodes.

    The rules are those of `edgevit check`. Only errors count: warnings cost time, and a build shows how much.

    Args:
        machine: that would build it: its version of TensorRT, Jetson module and compute capability.
        where: the model, for the error.
    """
    version = str(machine.versions[TENSORRT.name])
    refusals = refused(graph_of(read_onnx(path), path), version, machine.hardware)
    if refusals:
        more = len(refusals) - MOST_NAMED
        named = [f"{shortened(refusal.node)}: {refusal.what}" for refusal in refusals[:MOST_NAMED]]
        raise ArtifactError(
            f"TensorRT {version} does not take the model",
            where=where,
            got="; ".join([*named, *([f"and {more} more"] if more > 0 else [])]),
            next="; ".join(dict.fromkeys(refusal.next for refusal in refusals[:MOST_NAMED])),
        )


def refused(graph: Graph, version: str, hardware: Json) -> list[Refusal]:
    """The nodes that a TensorRT version is known to refuse on the hardware of a `TargetInfo`."""
    module: str | None = hardware["module"]
    by_rules = (
        Refusal(diagnostic.node, diagnostic.what, diagnostic.next)
        for diagnostic in tensorrt_diagnostics(graph)
        if diagnostic.level == "error"
    )
    table = TABLES.get(version_numbers(version)[:2])
    verdicts = (verdict for verdict in parser_verdicts(graph) if verdict.parser.version == table)
    by_table = (refusal for verdict in verdicts for refusal in _by_table(graph, verdict, module))
    by_gpu = _wrong_types(graph, [FP8]) if has_fp8(hardware["compute_capability"]) is False else ()
    first_of_node: dict[str, Refusal] = {}
    for refusal in (*_wrong_inputs(graph), *by_rules, *by_table, *by_gpu):
        first_of_node.setdefault(refusal.node, refusal)
    return list(first_of_node.values())


def _wrong_inputs(graph: Graph) -> Iterator[Refusal]:
    """Inputs whose names trtexec cannot take in its options."""
    for value in graph.model.graph.input:
        if value.name not in graph.constants and not PLAIN_NAME.fullmatch(value.name):
            what = "trtexec takes names of letters, digits, '.', '_', '-' and '/'"
            yield Refusal(value.name, what, "rename the input in the ONNX file")


def _by_table(graph: Graph, verdict: ParserVerdict, module: str | None) -> Iterator[Refusal]:
    parser = verdict.parser
    if verdict.opset_too_new:
        what = f"opset {opset_of(graph.model)}; the parser takes at most {parser.newest_opset}"
        yield Refusal("the file", what, f"export it with opset: {parser.newest_opset}")
    for node in nodes(graph.model):
        if full_name(node) in verdict.operators:
            what = f"NVIDIA's table of TensorRT {parser.version} has no {full_name(node)}"
            yield Refusal(node.name or node.output[0], what, NEWER_BOARD)
    if module is not None:
        yield from _wrong_types(graph, verdict.types)


def _wrong_types(graph: Graph, types: Sequence[str]) -> Iterator[Refusal]:
    for node in graph.of_type("DequantizeLinear"):
        stored = graph.stored_type(node)
        if stored is not None and short_type_name(stored) in types:
            what = f"the GPU does not compute {short_type_name(stored)}"
            yield Refusal(node.name or node.output[0], what, "quantize the model to int8")


NEWER_BOARD = "replace the operator, or build on a board with a newer TensorRT"
