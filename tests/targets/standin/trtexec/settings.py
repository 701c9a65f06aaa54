"""What a stand-in's trtexec is told about its board, and the ways in which it can go wrong."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

Variant = Literal[
    "good",
    "wrong-outputs",  # one class everywhere
    "wrong-in-large-batches",  # one class everywhere, in a batch of more than 8
    "wrong-from",  # from a node on: the name of the node follows, after a space
    "wrong-unless-marked",  # likewise, but right in an engine of which the node's output is an output
    "not-a-number",  # NaN everywhere
    "half-outputs",  # the file of the outputs ends in the middle
    "no-outputs",  # it ends well, and has written none
    "silent-fallback",  # every product runs in FP32
    "int8-falls-back",  # every product of a graph with INT8 runs in FP32
    "opaque",  # the whole network is one layer, which names no nodes
    "opaque-named",  # the whole network is one layer, which names each node
    "unstable",  # times that vary
    "builds-differ",  # the second of three builds is the fastest, the third comes next
    "first-is-wrong",  # the same, and the first gives one class everywhere
    "first-fails",  # the same, and the first build does not end well
    "int8-is-fast",  # the replayed times of a graph with INT8 are halved
    "small-is-fast",  # the replayed times are multiplied by the MB of the ONNX file
    "talkative",  # a build with a long log
    "fails-at-node",
    "int8-fails-at-node",  # a graph with INT8 fails
    "out-of-memory",
    "killed",  # by the system, during a build
    "hangs",
]
TAKES_TIME = "takes-its-time"  # a file beside that of the variant: a timing takes as long as it says
LOADED = "loaded"  # a file beside it, as long as such a timing lasts
VARIANTS: tuple[Variant, ...] = get_args(Variant)


@dataclass(frozen=True)
class Fault:
    """A node whose output is wrong.

    Attributes:
        vanishes: whether it is right in an engine of which its output is an output: it is fused otherwise there.
    """

    node: str
    vanishes: bool


@dataclass(frozen=True)
class TrtexecSettings:
    """A trtexec and its board.

    Attributes:
        version: of TensorRT, three numbers.
        build: the number in brackets after the version; "" where the banner has none.
        serialization: the number of the engine format.
        device: the GPU's name for CUDA.
        operators: NVIDIA's table of operators and the column of the parser; None if it takes all.
        newest_opset: that the parser takes.
    """

    version: tuple[int, int, int]
    build: str
    serialization: int
    device: str
    compute_capability: str
    sms: int
    memory_mib: int
    newest_opset: int
    operators: tuple[str, str] | None = None

    @property
    def title(self) -> str:
        """As in the banner: `[TensorRT v101602] [b10]`."""
        major, minor, patch = self.version
        build = f" [{self.build}]" if self.build else ""
        return f"[TensorRT v{major}{minor:02}{patch:02}]{build}"

    def write(self, file: Path) -> None:
        file.write_text(json.dumps(asdict(self)))


def read_settings(file: Path) -> TrtexecSettings:
    fields = json.loads(file.read_text())
    operators = fields["operators"]
    version, table = tuple(fields["version"]), tuple(operators) if operators else None
    return TrtexecSettings(**{**fields, "version": version, "operators": table})
