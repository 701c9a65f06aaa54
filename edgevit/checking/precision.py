"""The precision that each product of a graph asks for, held against the one it gets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from onnx import NodeProto

from edgevit.checking.plan import Kernel
from edgevit.graphs.graph import OPERANDS, Graph
from edgevit.graphs.types import BITS, short_name


@dataclass(frozen=True)
class Product:
    """A product of the graph: names of types as TensorRT's, in lower case; `got` is "" where no kernel names it.

    With int4 it is the weights that are stored in so few bits; they are unpacked to be multiplied.
    """

    node: str
    operator: str
    asked: str
    got: str

    @property
    def is_quantized(self) -> bool:
        """Whether it asks for fewer bits than a float16 has."""
        return BITS.get(self.asked, 32) < 16

    @property
    def fell_back(self) -> bool:
        """Whether it runs in more bits than it asked for."""
        return bool(self.got) and BITS.get(self.got, 32) > BITS.get(self.asked, 32)


def products(graph: Graph, got: Mapping[str, str]) -> list[Product]:
    """Each product in the order of the graph.

    Args:
        got: the types that products run in, by their names.
    """
    return [
        Product(node.name, node.op_type, asked(node, graph), got.get(node.name, ""))
        for node in graph.of_type(*OPERANDS)
    ]


def asked(node: NodeProto, graph: Graph) -> str:
    """What a product asks for: float, half, int8, …"""
    return short_name(graph.asked_precision(node))


def precisions(found: Iterable[Product]) -> Counter[tuple[str, str, str]]:
    """How many products of an operator asked for a precision and got one."""
    return Counter((one.operator, one.asked, one.got) for one in found)


def got_in_plan(graph: Graph, kernels: Sequence[Kernel]) -> dict[str, str]:
    """The type of what the kernel of each product multiplies, by the product's name."""
    return {
        node.name: "int4" if _unpacks_int4(node, graph, kernels) else _got(node, graph, kernels)
        for node in graph.of_type(*OPERANDS)
    }


def unfused_attentions(graph: Graph, kernels: Sequence[Kernel]) -> list[str]:
    """Names of the attentions' nodes that are no part of a fused kernel."""
    fused = {node for kernel in kernels if kernel.is_attention for node in kernel.nodes}
    return [node.name for node in graph.attentions if node.name not in fused]


def _unpacks_int4(product: NodeProto, graph: Graph, kernels: Sequence[Kernel]) -> bool:
    """Whether the weights of a product are stored in INT4, and unpacked by its kernel or by one before it."""
    ends = [end.name for end in map(graph.pair_end, product.input[:2]) if end is not None]
    return any(
        tensor.type == "int4" for kernel in kernels if set(ends) & set(kernel.nodes) for tensor in kernel.constants
    )


def _got(node: NodeProto, graph: Graph, kernels: Sequence[Kernel]) -> str:
    """The type of what the kernel of a product multiplies.

    Kernels that only prepare an operand name the product too, so one that multiplies is looked for first. A small
    product may be part of a generated kernel, whose first input is whatever that begins with: there the weights tell.

    A product of two activations has none. Over a single token it is a multiplication number by number, in one kernel
    with the scaling of an INT8 convolution's 32-bit sums before it: what that kernel reads and writes says nothing of
    it. The builder is strongly typed, so a kernel that converts multiplies in the type that the graph says.
    """
    naming = [kernel for kernel in kernels if node.name in kernel.nodes]
    for kernel in naming:
        if kernel.is_product and (operands := kernel.inputs or kernel.constants):
            return operands[0].type
    has_weights = any(graph.is_weight(node.input[place]) for place in OPERANDS[node.op_type])
    for kernel in reversed(naming):
        if kernel.converts and not has_weights:
            return asked(node, graph)
        if tensors := kernel.constants or kernel.inputs:
            return max(tensors, key=lambda tensor: tensor.bytes).type
    return ""
