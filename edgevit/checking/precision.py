"""The precision that each product of a graph asks for, held against the one it gets in the builder's plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgevit.checking.graph import PRODUCTS, Graph
from edgevit.checking.plan import BITS, Kernel

ASKED_AS = {"float32": "float", "float16": "half", "float8": "fp8"}


@dataclass(frozen=True)
class Product:
    """A product of the graph: names as TensorRT's, in lower case; `got` is "" where no kernel names it."""

    node: str
    operator: str
    asked: str
    got: str

    @property
    def fell_back(self) -> bool:
        """Whether it runs in more bits than it asked for."""
        return bool(self.got) and BITS.get(self.got, 32) > BITS.get(self.asked, 32)


def products(graph: Graph, kernels: Sequence[Kernel]) -> list[Product]:
    """Each product in the order of the graph."""
    found = []
    for node in graph.of_type(*PRODUCTS):
        asked = graph.asked_precision(node)
        found.append(Product(node.name, node.op_type, ASKED_AS.get(asked, asked), _got(node.name, kernels)))
    return found


def unfused_attentions(graph: Graph, kernels: Sequence[Kernel]) -> list[str]:
    """Names of the Softmax nodes of attentions that are no part of a fused kernel."""
    fused = {node for kernel in kernels if kernel.is_attention for node in kernel.nodes}
    return [node.name for node in graph.attentions if node.name not in fused]


def _got(node: str, kernels: Sequence[Kernel]) -> str:
    """The type of what the kernel of a product multiplies.

    Kernels that only prepare an operand name the product too, so one that multiplies is looked for first. A small
    product may be part of a generated kernel, whose first input is whatever that begins with: there the weights tell.
    """
    naming = [kernel for kernel in kernels if node in kernel.nodes]
    for kernel in naming:
        if kernel.is_product and (operands := kernel.inputs or kernel.constants):
            return operands[0].type
    for kernel in reversed(naming):
        if tensors := kernel.constants or kernel.inputs:
            return max(tensors, key=lambda tensor: tensor.bytes).type
    return ""
