"""Verdicts of the parsers in boards' older TensorRT versions, by NVIDIA's published tables of operators.

The tables are those of onnx-tensorrt's releases. They do not list constraints on the attributes of operators.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from onnx import NodeProto

from edgevit.graphs.graph import Graph
from edgevit.graphs.types import short_type_name
from edgevit.graphs.walk import nodes, opset_of

TABLE = Path(__file__).with_name("tensorrt_operators.csv")


@dataclass(frozen=True)
class OldParser:
    """The parser of a TensorRT version.

    Attributes:
        boards: releases with this version, or the nearest to it.
        dequantized: the types that its DequantizeLinear accepts and its boards compute.
    """

    version: str
    boards: str
    newest_opset: int
    dequantized: tuple[str, ...]


@dataclass(frozen=True)
class ParserVerdict:
    """The operators and dequantized types of a graph that an older parser refuses."""

    parser: OldParser
    operators: tuple[str, ...]
    types: tuple[str, ...]
    opset_too_new: bool

    @property
    def taken(self) -> bool:
        """Whether the table lists everything in the graph."""
        return not self.operators and not self.types and not self.opset_too_new

    @property
    def text(self) -> str:
        """`takes it`, or the features that the parser lacks."""
        newer = [f"opset at most {self.parser.newest_opset}"] if self.opset_too_new else []
        lacking = [f"no {', '.join([*self.operators, *self.types])}"] if self.operators or self.types else []
        return "; ".join([*newer, *lacking]) or "takes it"


# 10.1 takes FP8 too, but its boards are Orin, whose Ampere cores do not multiply FP8.
OLD_PARSERS = (
    OldParser("10.1", "JetPack 6.1 and 6.2 (10.3)", 20, ("int8", "int4")),
    OldParser("8.6", "JetPack 6.0", 17, ("int8",)),
)


def parser_verdicts(graph: Graph) -> list[ParserVerdict]:
    """The verdict of each older parser, newest first."""
    used = sorted({full_name(node) for node in nodes(graph.model)})
    numbers = {graph.stored_type(node) for node in graph.of_type("DequantizeLinear")} - {None}
    stored = set(map(short_type_name, numbers))
    verdicts = []
    for parser in OLD_PARSERS:
        is_taken = _operators_taken(parser.version)
        refused = tuple(name for name in used if not is_taken.get(name, False))
        types = tuple(sorted(stored - set(parser.dequantized)))
        verdicts.append(ParserVerdict(parser, refused, types, opset_of(graph.model) > parser.newest_opset))
    return verdicts


def full_name(node: NodeProto) -> str:
    """The operator's name, after the domain unless that is ONNX's own."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"


@cache
def _operators_taken(version: str) -> dict[str, bool]:
    with TABLE.open(newline="", encoding="utf-8") as file:
        return {row["onnx_op"]: row[f"tensorrt_{version}"] == "Y" for row in csv.DictReader(file)}
