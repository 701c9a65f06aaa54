"""A checked ONNX graph: its products and convolutions, Q/DQ pairs, weights and attentions."""

from __future__ import annotations

from functools import cached_property

import onnx
import onnx.checker
from onnx import ModelProto, NodeProto, TensorProto

from edgevit.graphs.guard import with_functions_inlined
from edgevit.graphs.index import GraphIndex
from edgevit.graphs.precision import is_quantized, onnx_precision
from edgevit.graphs.types import type_name
from edgevit.graphs.walk import integer_attribute, with_unique_node_names

PRODUCTS = ("Conv", "ConvTranspose", "MatMul", "Gemm")
# The positions of an operator's two operands among its inputs. Weights, if any, are the second operand. The longer
# names are ONNX Runtime's own operators, which occur in graphs that it has optimized.
CONVOLUTIONS = {"Conv": (0, 1), "FusedConv": (0, 1), "ConvInteger": (0, 1), "QLinearConv": (0, 3)}
MATRIX_PRODUCTS = {
    "MatMul": (0, 1), "FusedMatMul": (0, 1), "MatMulInteger": (0, 1), "MatMulIntegerToFloat": (0, 1),
    "DynamicQuantizeMatMul": (0, 1), "QLinearMatMul": (0, 3), "Gemm": (0, 1), "FusedGemm": (0, 1), "QGemm": (0, 3),
}  # fmt: skip
OPERANDS = {**CONVOLUTIONS, **MATRIX_PRODUCTS, "ConvTranspose": (0, 1), "Attention": (0, 1)}
# Operators whose multiply-accumulates are not counted.
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
# Operators between the two products of an attention, besides the softmax.
AROUND_SOFTMAX = (*PAIR, "Cast", "Identity", "Add", "Mul", "Div", "Where")


class Graph(GraphIndex):
    """An index of a copy of a model, with functions inlined and a unique name for every node.

    Raises:
        onnx.checker.ValidationError: the graph is not valid.
    """

    def __init__(self, model: ModelProto) -> None:
        named = with_unique_node_names(with_functions_inlined(model, model.graph.name))
        onnx.checker.check_model(named)
        super().__init__(named)
        self._weights, self._pair_ends = set(self.constants), dict[str, NodeProto]()
        for node in self.nodes:
            self._follow_layout(node)

    def stored_type(self, pair_end: NodeProto) -> int | None:
        """The type of the integers that a DequantizeLinear node reads."""
        return self.element_type(pair_end.input[0]) or _zero_point_type(pair_end, self)

    def pair_end(self, name: str) -> NodeProto | None:
        """The DequantizeLinear node that makes a tensor, directly or through changes of layout; None without one."""
        return self._pair_ends.get(name)

    def is_weight(self, name: str) -> bool:
        """Whether a tensor is constant, quantized or float."""
        return name in self._weights

    def asked_precision(self, product: NodeProto) -> str:
        """The precision that the graph declares for a product.

        int8 if both operands are dequantized from 8 bits; int4 if the weights are dequantized from INT4, with any
        activation; otherwise the type of the tensors.
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
        """The precision of the quantized weights; None in a float graph."""
        return onnx_precision(self.model) if is_quantized(self.model) else None

    @cached_property
    def attentions(self) -> list[NodeProto]:
        """Attention nodes, and Softmax nodes whose output enters a product of two activations, perhaps after a mask."""
        return [
            node
            for node in self.of_type("Attention", "Softmax")
            if node.op_type == "Attention" or self._enters_product(node.output[0], steps=4)
        ]

    def _follow_layout(self, node: NodeProto) -> None:
        """Record whether a node's output is a weight, or dequantized. Nodes come in the order of the graph."""
        if node.op_type == "DequantizeLinear":
            self._pair_ends[node.output[0]] = node
        elif node.op_type in LAYOUT and node.input[0] in self._pair_ends:
            self._pair_ends[node.output[0]] = self._pair_ends[node.input[0]]
        if node.op_type in (*PAIR, *LAYOUT) and node.input[0] in self._weights:
            self._weights.update(node.output)

    def _enters_product(self, tensor: str, steps: int) -> bool:
        """Whether a tensor enters a product of two activations, with at most `steps` nodes between."""
        names, seen = [tensor], {tensor}
        for _ in range(steps + 1):
            readers = [reader for name in names for reader in self.readers[name]]
            for reader in readers:
                if reader.op_type == "MatMul" and not any(self.is_weight(operand) for operand in reader.input[:2]):
                    return True
            outputs = [reader.output[0] for reader in readers if reader.op_type in AROUND_SOFTMAX]
            names = [output for output in dict.fromkeys(outputs) if output not in seen]
            seen.update(names)
        return False


def _zero_point_type(node: NodeProto, graph: Graph) -> int | None:
    maker = graph.maker.get(node.input[0])
    if maker is None or maker.op_type != "QuantizeLinear":
        return None
    if len(maker.input) > 2 and maker.input[2]:
        return graph.element_type(maker.input[2])
    return integer_attribute(maker, "output_dtype", 0) or TensorProto.UINT8
