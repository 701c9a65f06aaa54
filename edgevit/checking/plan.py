"""What TensorRT's builder says that it will run: its kernels, read from the log of a detailed build."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgevit.graphs.types import BITS

PRODUCT_KINDS = ("gemm", "correlation", "deconvolution", "runtime_fusion")
SYNCHRONIZATION = ("signal", "wait")

_LINE = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<kind>[^,]*), Inputs: \[(?P<inputs>.*?)\], Constants: \[(?P<constants>.*?)\], "
    r"Outputs: \[(?P<outputs>.*?)\], TacticName: .*?Metadata: ?(?P<metadata>.*)"
)
_TENSOR = re.compile(r"Name: (?P<name>.*?), Dimensions: \[(?P<shape>[-\d,]*)\], .*?Datatype: (?P<type>\w+)")
_NODE = re.compile(r"\[ONNX Layer: (.*?)\]")


@dataclass(frozen=True)
class Tensor:
    """What a kernel reads or writes; `type` as TensorRT names it, in lower case (half, float, int8)."""

    name: str
    shape: tuple[int, ...]
    type: str

    @property
    def bytes(self) -> int:
        """Rounded up; types of unknown width count as 32 bits."""
        return math.ceil(math.prod(self.shape) * BITS.get(self.type, 32) / 8)


@dataclass(frozen=True)
class Kernel:
    """One launch.

    Attributes:
        kind: gemm, correlation (a convolution), runtime_fusion (a product with what follows), kgen (generated), …
        nodes: names of the ONNX nodes that went into it.
    """

    name: str
    kind: str
    inputs: tuple[Tensor, ...]
    constants: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    nodes: tuple[str, ...]

    @property
    def is_attention(self) -> bool:
        """Whether both products of an attention and the softmax between them are this one kernel."""
        return self.name.startswith("_gemm_mha")

    @property
    def is_product(self) -> bool:
        """Whether it multiplies matrices or convolves."""
        return self.kind in PRODUCT_KINDS or self.is_attention

    @property
    def converts(self) -> bool:
        """Whether it is a generated kernel that goes over to another type on its way: its name lists what it does."""
        return self.kind == "kgen" and "Cast" in self.name

    @property
    def bytes_moved(self) -> int:
        """What it reads and writes, weights included."""
        return sum(tensor.bytes for tensor in (*self.inputs, *self.constants, *self.outputs))


def kernels_of(log: Sequence[str]) -> list[Kernel]:
    """The kernels that a build with ProfilingVerbosity.DETAILED logged, in their order; without waits and signals.

    Read from TensorRT for RTX 1.7.1: one message that begins with "Layers:", a line for each kernel.
    """
    return [kernel for message in log if message.startswith("Layers:") for kernel in _kernels(message)]


def _kernels(message: str) -> Iterator[Kernel]:
    for line in message.splitlines():
        found = _LINE.match(line.strip())
        if found and found["kind"] not in SYNCHRONIZATION:
            inputs, constants, outputs = (tuple(_tensors(found[part])) for part in ("inputs", "constants", "outputs"))
            nodes = tuple(dict.fromkeys(_NODE.findall(found["metadata"])))
            yield Kernel(found["name"], found["kind"], inputs, constants, outputs, nodes)


def _tensors(text: str) -> Iterator[Tensor]:
    for found in _TENSOR.finditer(text):
        shape = tuple(int(size) for size in found["shape"].split(",") if size)
        yield Tensor(found["name"], shape, found["type"].lower())
