"""The precision that each product of a graph asks for, and the precision that it gets."""

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
    """A product of the graph.

    Attributes:
        asked, got: TensorRT's names of types, in lower case. With int4, weights alone are stored in 4 bits; they are
            unpacked for the product. `got` is "" if no kernel tells it.
    """

    node: str
    operator: str
    asked: str
    got: str

    @property
    def is_quantized(self) -> bool:
        """Whether the product asks for fewer than 16 bits."""
        return BITS.get(self.asked, 32) < 16

    @property
    def fell_back(self) -> bool:
        """Whether the product runs in more bits than it asked for."""
        return bool(self.got) and BITS.get(self.got, 32) > BITS.get(self.asked, 32)


def products(graph: Graph, got: Mapping[str, str]) -> list[Product]:
    """Each product in the order of the graph.

    Args:
        got: the types in which products run, by the products' names.
    """
    return [
        Product(node.name, node.op_type, asked_type(node, graph), got.get(node.name, ""))
        for node in graph.of_type(*OPERANDS)
    ]


def asked_type(product: NodeProto, graph: Graph) -> str:
    """The type that a product asks for: float, half, int8, …"""
    return short_name(graph.asked_precision(product))


def precision_counts(checked: Iterable[Product]) -> Counter[tuple[str, str, str]]:
    """The number of products by operator, precision asked for, and precision got."""
    return Counter((product.operator, product.asked, product.got) for product in checked)


def got_in_plan(graph: Graph, kernels: Sequence[Kernel]) -> dict[str, str]:
    """The type that the kernel of each product multiplies, by the product's name."""
    return {
        node.name: "int4" if _unpacks_int4(node, graph, kernels) else _got(node, graph, kernels)
        for node in graph.of_type(*OPERANDS)
    }


def unfused_attentions(graph: Graph, kernels: Sequence[Kernel]) -> list[str]:
    """Names of the attentions' nodes that are in no fused kernel."""
    fused = {node for kernel in kernels if kernel.is_attention for node in kernel.nodes}
    return [node.name for node in graph.attentions if node.name not in fused]


def _unpacks_int4(product: NodeProto, graph: Graph, kernels: Sequence[Kernel]) -> bool:
    """Whether the weights of a product are stored in INT4, and unpacked by its kernel or a kernel before it."""
    ends = [end.name for end in map(graph.pair_end, product.input[:2]) if end is not None]
    return any(
        tensor.type == "int4" for kernel in kernels if set(ends) & set(kernel.nodes) for tensor in kernel.constants
    )


def _got(node: NodeProto, graph: Graph, kernels: Sequence[Kernel]) -> str:
    """The type that the kernel of a product multiplies; "" if no kernel tells it.

    Kernels that only prepare an operand name the product too, so a kernel that multiplies is looked for first. A small
    product may be part of a generated kernel, whose first input may belong to another operator: there the type is that
    of the weights. An opaque layer tells nothing about its inside, though it may name each node in it.

    A product of two activations has no weights. Over a single token it is an elementwise multiplication, in one kernel
    with the scaling of the 32-bit sums of an INT8 convolution before it, so that the inputs and outputs of that kernel
    say nothing about it. The builder is strongly typed, so a kernel that converts multiplies in the graph's type.
    """
    naming = [kernel for kernel in kernels if node.name in kernel.nodes]
    multiplying = [kernel for kernel in naming if kernel.is_product and (kernel.inputs or kernel.constants)]
    if multiplying:
        return next((kernel.multiplied_type for kernel in multiplying if kernel.multiplied_type), "")
    if any(kernel.is_opaque for kernel in naming):
        return ""
    has_weights = any(graph.is_weight(node.input[position]) for position in OPERANDS[node.op_type])
    for kernel in reversed(naming):
        if kernel.converts and not has_weights:
            return asked_type(node, graph)
        if tensors := kernel.constants or kernel.inputs:
            return max(tensors, key=lambda tensor: tensor.bytes).type
    return ""
