"""An ONNX graph with the questions that rules and checks put to it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property

import onnx
import onnx.checker
from onnx import ModelProto, NodeProto, TensorProto

from edgevit.graphs.guard import with_functions_inlined
from edgevit.graphs.precision import is_quantized, onnx_precision
from edgevit.graphs.tensors import constants_of, types_and_shapes
from edgevit.graphs.types import type_name
from edgevit.graphs.walk import integer_attribute, with_unique_node_names

PRODUCTS = ("Conv", "ConvTranspose", "MatMul", "Gemm")
# Where an operator that multiplies has its two operands; the second are the weights, where there are any. The longer
# names are ONNX Runtime's, and stand in graphs that it has optimised.
CONVOLUTIONS = {"Conv": (0, 1), "FusedConv": (0, 1), "ConvInteger": (0, 1), "QLinearConv": (0, 3)}
MATRIX_PRODUCTS = {
    "MatMul": (0, 1), "FusedMatMul": (0, 1), "MatMulInteger": (0, 1), "MatMulIntegerToFloat": (0, 1),
    "DynamicQuantizeMatMul": (0, 1), "QLinearMatMul": (0, 3), "Gemm": (0, 1), "FusedGemm": (0, 1), "QGemm": (0, 3),
}  # fmt: skip
OPERANDS = {**CONVOLUTIONS, **MATRIX_PRODUCTS, "ConvTranspose": (0, 1), "Attention": (0, 1)}
# Operators that multiply as well, whose multiply-accumulates nobody counts here.
UNCOUNTED = {
    "DeformConv", "DynamicQuantizeLSTM", "Einsum", "GRU", "GroupQueryAttention", "LSTM", "MatMulBnb4", "MatMulNBits",
    "MoE", "MultiHeadAttention", "NhwcFusedConv", "QAttention", "QMoE", "RNN",
}  # fmt: skip
INTEGER_PRODUCTS = (
    "ConvInteger", "QLinearConv", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QLinearMatMul",
    "QGemm",
)  # fmt: skip
INT8 = TensorProto.INT8
EIGHT_BITS = {int(INT8), int(TensorProto.UINT8)}
PAIR = ("QuantizeLinear", "DequantizeLinear")
LAYOUT = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten")
# Between the two products of an attention, beside the softmax itself.
AROUND_SOFTMAX = (*PAIR, "Cast", "Identity", "Add", "Mul", "Div", "Where")


class Graph:
    """The main graph of a model, its functions inlined, each node under a name of its own.

    Raises:
        onnx.checker.ValidationError: it is no valid graph.
    """

    def __init__(self, model: ModelProto) -> None:
        self.model = with_unique_node_names(with_functions_inlined(model, model.graph.name))
        onnx.checker.check_model(self.model)
        self.nodes: list[NodeProto] = list(self.model.graph.node)
        self.constants = constants_of(self.model)
        self.maker = {name: node for node in self.nodes for name in node.output if name}
        self.readers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in node.input:
                self.readers[name].append(node)
        self._types, self._shapes = types_and_shapes(self.model)
        self._weights, self._pair_ends = set(self.constants), dict[str, NodeProto]()
        for node in self.nodes:
            self._follow_layout(node)

    def of_type(self, *operators: str) -> Iterator[NodeProto]:
        """Nodes of these operators, in the order of the graph."""
        return (node for node in self.nodes if node.op_type in operators)

    def element_type(self, name: str) -> int | None:
        """TensorProto's number of a tensor's type, where it is known."""
        return self.constants[name].data_type if name in self.constants else self._types.get(name)

    def shape(self, name: str) -> tuple[int | None, ...] | None:
        """A tensor's shape, None where it or a size of it is not known."""
        return tuple(self.constants[name].dims) if name in self.constants else self._shapes.get(name)

    def stored_type(self, pair_end: NodeProto) -> int | None:
        """The type of the integers that a DequantizeLinear reads."""
        return self.element_type(pair_end.input[0]) or _zero_point_type(pair_end, self)

    def pair_end(self, name: str) -> NodeProto | None:
        """The DequantizeLinear that a tensor comes from, perhaps through changes of layout, which keep integers."""
        return self._pair_ends.get(name)

    def is_weight(self, name: str) -> bool:
        """Whether a tensor is constant, quantized or not."""
        return name in self._weights

    def asked_precision(self, product: NodeProto) -> str:
        """What a product's operands are: int8 where both are dequantized from 8 bits, else the type of its numbers.

        int4 where its weights are dequantized from that, whatever they meet.
        """
        if product.op_type in INTEGER_PRODUCTS:
            return "int8"
        operands = [product.input[place] for place in OPERANDS[product.op_type]]
        ends = [self.pair_end(name) for name in operands]
        stored = {self.stored_type(end) for end in ends if end is not None}
        if None not in ends and stored <= EIGHT_BITS:
            return "int8"
        if None not in ends and len(stored) == 1:
            return type_name(stored.pop())
        if stored == {TensorProto.INT4}:
            return "int4"
        return type_name(self.element_type(product.output[0]) or self.element_type(operands[0]))

    @cached_property
    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each constant, by its name."""
        return {name: tuple(tensor.dims) for name, tensor in self.constants.items()}

    @cached_property
    def quantized_precision(self) -> str | None:
        """The precision of what is quantized; None in a float graph."""
        return onnx_precision(self.model) if is_quantized(self.model) else None

    @cached_property
    def attentions(self) -> list[NodeProto]:
        """Attention nodes, and Softmax nodes whose weights, perhaps after a pair or a mask, enter a product of two."""
        return [
            node
            for node in self.of_type("Attention", "Softmax")
            if node.op_type == "Attention" or self._enters_product(node.output[0], steps=4)
        ]

    def _follow_layout(self, node: NodeProto) -> None:
        """Note whether what a node makes is a weight, or comes from the end of a pair; nodes come in their order."""
        if node.op_type == "DequantizeLinear":
            self._pair_ends[node.output[0]] = node
        elif node.op_type in LAYOUT and node.input[0] in self._pair_ends:
            self._pair_ends[node.output[0]] = self._pair_ends[node.input[0]]
        if node.op_type in (*PAIR, *LAYOUT) and node.input[0] in self._weights:
            self._weights.update(node.output)

    def _enters_product(self, name: str, steps: int) -> bool:
        """Whether a tensor enters a product of two activations, with at most `steps` nodes between."""
        names, seen = [name], {name}
        for _ in range(steps + 1):
            readers = [reader for one in names for reader in self.readers[one]]
            for reader in readers:
                if reader.op_type == "MatMul" and not any(self.is_weight(one) for one in reader.input[:2]):
                    return True
            made = [reader.output[0] for reader in readers if reader.op_type in AROUND_SOFTMAX]
            names = [one for one in dict.fromkeys(made) if one not in seen]
            seen.update(names)
        return False


def _zero_point_type(node: NodeProto, graph: Graph) -> int | None:
    maker = graph.maker.get(node.input[0])
    if maker is None or maker.op_type != "QuantizeLinear":
        return None
    if len(maker.input) > 2 and maker.input[2]:
        return graph.element_type(maker.input[2])
    return integer_attribute(maker, "output_dtype", 0) or TensorProto.UINT8
