"""The kernels of a TensorRT engine, read from the log of a detailed build."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgevit.graphs.types import BITS

OPAQUE_KINDS = ("myelin", "foreignnode")
PRODUCT_KINDS = ("gemm", "correlation", "deconvolution", "runtime_fusion")
SYNCHRONIZATION = ("signal", "wait")

_LINE = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<kind>[^,]*), Inputs: \[(?P<inputs>.*?)\], Constants: \[(?P<constants>.*?)\], "
    r"Outputs: \[(?P<outputs>.*?)\], TacticName: .*?Metadata: ?(?P<metadata>.*)"
)
_TENSOR = re.compile(r"Name: (?P<name>.*?), Dimensions: \[(?P<shape>[-\d,]*)\], .*?Datatype: (?P<type>\w+)")
_NODE = re.compile(r"\[ONNX Layer: (.*?)\]")


@dataclass(frozen=True)
class KernelTensor:
    """A tensor that a kernel reads or writes.

    Attributes:
        type: TensorRT's name in lower case (half, float, int8); "" if untold.
    """

    name: str
    shape: tuple[int, ...]
    type: str

    @property
    def bytes(self) -> int:
        """Size, rounded up. Types of unknown width count as 32 bits."""
        return math.ceil(math.prod(self.shape) * BITS.get(self.type, 32) / 8)


@dataclass(frozen=True)
class Kernel:
    """One kernel launch.

    Attributes:
        kind: gemm, correlation (a convolution), runtime_fusion (a product and operators after it), kgen (generated), …
        nodes: names of the ONNX nodes that the kernel computes.
        tactic_type: the type that the tactic's name says it multiplies; "" if it says none.
    """

    name: str
    kind: str
    inputs: tuple[KernelTensor, ...]
    constants: tuple[KernelTensor, ...]
    outputs: tuple[KernelTensor, ...]
    nodes: tuple[str, ...]
    tactic_type: str = ""

    @property
    def is_attention(self) -> bool:
        """Whether the kernel computes a whole attention: two products and the softmax between them."""
        return self.name.startswith("_gemm_mha")

    @property
    def is_product(self) -> bool:
        """Whether the kernel multiplies matrices or convolves."""
        return self.kind in PRODUCT_KINDS or self.is_attention

    @property
    def is_opaque(self) -> bool:
        """Whether it is a part of the network as one layer, whose inside is not told."""
        return not self.is_product and (self.kind.lower() in OPAQUE_KINDS or "ForeignNode[" in self.name)

    @property
    def multiplied_type(self) -> str:
        """The type of a product's first input, or else of its weights, or else in its tactic's name; "" if untold."""
        weights_first = sorted(self.constants, key=lambda tensor: tensor.bytes, reverse=True)
        operands = (*self.inputs[:1], *weights_first)
        return next((tensor.type for tensor in operands if tensor.type), self.tactic_type)

    @property
    def converts(self) -> bool:
        """Whether it is a generated kernel with a conversion between types, by the operations in its name."""
        return self.kind == "kgen" and "Cast" in self.name

    @property
    def bytes_moved(self) -> int:
        """Bytes that the kernel reads and writes, weights included."""
        return sum(tensor.bytes for tensor in (*self.inputs, *self.constants, *self.outputs))


def kernels_of(log: Sequence[str]) -> list[Kernel]:
    """The kernels in the log of a build with ProfilingVerbosity.DETAILED, in order, without waits and signals.

    The format is that of TensorRT for RTX 1.7.1: a message that begins with "Layers:", with a line for each kernel.
    """
    return [kernel for message in log if message.startswith("Layers:") for kernel in _kernels(message)]


def _kernels(message: str) -> Iterator[Kernel]:
    for line in message.splitlines():
        match = _LINE.match(line.strip())
        if match and match["kind"] not in SYNCHRONIZATION:
            inputs, constants, outputs = (tuple(_tensors(match[part])) for part in ("inputs", "constants", "outputs"))
            nodes = tuple(dict.fromkeys(_NODE.findall(match["metadata"])))
            yield Kernel(match["name"], match["kind"], inputs, constants, outputs, nodes)


def _tensors(text: str) -> Iterator[KernelTensor]:
    for match in _TENSOR.finditer(text):
        shape = tuple(int(size) for size in match["shape"].split(",") if size)
        yield KernelTensor(match["name"], shape, match["type"].lower())
