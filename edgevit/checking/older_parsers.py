"""Which operators the parsers of boards' older TensorRT versions take, by NVIDIA's published tables.

From the operator tables of onnx-tensorrt's releases. What a parser asks of an operator's attributes is not in them.
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
    """A version with its table; `boards` are those that come with it or with the nearest to it.

    Attributes:
        dequantized: the types that its DequantizeLinear takes and its boards compute.
    """

    version: str
    boards: str
    newest_opset: int
    dequantized: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """What an older parser would refuse; `types` are of what is dequantized."""

    parser: OldParser
    operators: tuple[str, ...]
    types: tuple[str, ...]
    opset_too_new: bool

    @property
    def taken(self) -> bool:
        """Whether nothing in the table speaks against the graph."""
        return not self.operators and not self.types and not self.opset_too_new

    @property
    def said(self) -> str:
        """takes it; or what it has not got"""
        newer = [f"opset at most {self.parser.newest_opset}"] if self.opset_too_new else []
        lacking = [f"no {', '.join([*self.operators, *self.types])}"] if self.operators or self.types else []
        return "; ".join([*newer, *lacking]) or "takes it"


# 10.1 takes FP8 too, but those boards are Orin: Ampere's cores do not multiply it.
OLD_PARSERS = (
    OldParser("10.1", "JetPack 6.1 and 6.2 (10.3)", 20, ("int8", "int4")),
    OldParser("8.6", "JetPack 6.0", 17, ("int8",)),
)


def verdicts(graph: Graph) -> list[Verdict]:
    """Of each older parser, newest first."""
    used = sorted({_full_name(node) for node in nodes(graph.model)})
    numbers = {graph.stored_type(node) for node in graph.of_type("DequantizeLinear")} - {None}
    stored = set(map(short_type_name, numbers))
    found = []
    for parser in OLD_PARSERS:
        taken = _taken(parser.version)
        refused = tuple(name for name in used if not taken.get(name, False))
        types = tuple(sorted(stored - set(parser.dequantized)))
        found.append(Verdict(parser, refused, types, opset_of(graph.model) > parser.newest_opset))
    return found


def _full_name(node: NodeProto) -> str:
    """Just its operator where that is ONNX's own."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"


@cache
def _taken(version: str) -> dict[str, bool]:
    with TABLE.open(newline="", encoding="utf-8") as file:
        return {row["onnx_op"]: row[f"tensorrt_{version}"] == "Y" for row in csv.DictReader(file)}
