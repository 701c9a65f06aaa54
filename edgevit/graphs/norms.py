"""Norms that a graph writes out as arithmetic; written-out layer norms become LayerNormalization nodes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgevit.graphs.index import GraphIndex
from edgevit.graphs.tensors import without_unread_weights
from edgevit.graphs.walk import integer_attribute, opset_of, read_elsewhere

OLDEST_OPSET = 17  # of LayerNormalization
MOST_NODES = 12  # of a norm, from the squares to the division
FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE)
SQUARE_INSIDE = ("ReduceL2", "ReduceSumSquare")
SUMS = ("ReduceMean", "ReduceSum", "GlobalAveragePool")
# Operators between the squares and the division by their root. Their other inputs are constants.
INNER_OPERATORS = (*SUMS, "Add", "Mul", "Div", "Sqrt", "Pow", "Reciprocal", "Clip", "Max", "Expand", "Cast", "Identity")


@dataclass(frozen=True)
class WrittenOutNorm:
    """A tensor divided by the root of its mean square, in several operators.

    Attributes:
        node: name of the node that squares.
        squares: the tensors from the squares to their root.
        centered: x - mean(x) and mean(x) of a layer norm; empty for other norms.
    """

    node: str
    squares: tuple[str, ...]
    centered: tuple[str, ...]

    @property
    def inner(self) -> tuple[str, ...]:
        """Names of all tensors inside the norm."""
        return self.squares + self.centered


def written_out_norms(model: ModelProto) -> list[WrittenOutNorm]:
    """The norms of the main graph that are written as squares, their mean or sum, and its root, in graph order."""
    return list(_NormFinder(model).norms())


def with_fused_norms(model: ModelProto) -> ModelProto:
    """A copy in which each written-out layer norm over the last axis is one LayerNormalization.

    The outputs stay equal: (x - mean x) / √(mean (x - mean x)² + ε), times a scale and plus a bias if the graph applies
    these with one number per channel. LayerNormalization computes in float32 even where its tensors are float16. A
    model below opset 17, which has no such operator, stays as it is.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    fused = {norm.output: norm for norm in _NormFinder(model).layer_norms()} if opset_of(model) >= OLDEST_OPSET else {}
    if not fused:
        return copy
    replaced = [fused[node.output[0]].node if node.output[0] in fused else node for node in model.graph.node]
    del copy.graph.node[:]
    copy.graph.node.extend(_read_nodes(replaced, read_elsewhere(model)))
    for norm in fused.values():
        copy.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in norm.constants.items())
    return without_unread_weights(copy)


@dataclass(frozen=True)
class _LayerNorm:
    """A written-out layer norm of the tensor `input` over its last axis.

    Attributes:
        scale, bias: (channels,).
    """

    input: str
    output: str
    epsilon: float
    scale: NDArray[Any]
    bias: NDArray[Any] | None

    @property
    def constants(self) -> dict[str, NDArray[Any]]:
        """The scale and, if there is one, the bias, by their names in the graph."""
        bias = {} if self.bias is None else {f"{self.output}/edgevit_norm/bias": self.bias}
        return {f"{self.output}/edgevit_norm/scale": self.scale, **bias}

    @property
    def node(self) -> NodeProto:
        """The LayerNormalization node with the same output."""
        inputs, name = [self.input, *self.constants], f"{self.output}/edgevit_norm"
        return helper.make_node("LayerNormalization", inputs, [self.output], name, axis=-1, epsilon=self.epsilon)


@dataclass(frozen=True)
class _Centered:
    """tensor - mean(tensor) over an axis."""

    tensor: str
    axis: int
    mean: str


class _NormFinder:
    """Finds the norms of a model's main graph."""

    def __init__(self, model: ModelProto) -> None:
        self._graph = GraphIndex(model)
        self._read_elsewhere = read_elsewhere(model)

    def norms(self) -> Iterator[WrittenOutNorm]:
        for node in self._graph.nodes:
            path = self._path_from(node) if node.op_type in SQUARE_INSIDE or self._squares(node) else []
            has_sum = any(step.op_type in (*SUMS, *SQUARE_INSIDE) for step in path)
            if has_sum and any(self._takes_root(step) for step in path):
                difference = self._centered(node.input[0])
                centered = (node.input[0], difference.mean) if difference else ()
                yield WrittenOutNorm(node.name, tuple(step.output[0] for step in path), centered)

    def layer_norms(self) -> Iterator[_LayerNorm]:
        for node in self._graph.nodes:
            for dividend, root in self._divisions(node):
                norm = self._layer_norm(node.output[0], dividend, root)
                if norm is not None:
                    yield norm

    def _path_from(self, start: NodeProto) -> list[NodeProto]:
        """A squaring node and the nodes after it, up to the division."""
        path = [start]
        while len(path) < MOST_NODES:
            readers = self._graph.readers[path[-1].output[0]]
            inner = next((reader for reader in readers if self._is_inner(reader, path[-1])), None)
            if inner is None:
                break
            path.append(inner)
        return path

    def _is_inner(self, node: NodeProto, previous: NodeProto) -> bool:
        """Whether a node continues a norm: an operator of one output whose inputs beside the previous are constants."""
        others = [name for name in node.input if name and name != previous.output[0]]
        return (
            node.op_type in INNER_OPERATORS
            and len(node.output) == 1
            and all(name in self._graph.constants for name in others)
        )

    def _takes_root(self, node: NodeProto) -> bool:
        return node.op_type in ("Sqrt", "ReduceL2") or self._is_power(node, 0.5) or self._is_power(node, -0.5)

    def _divisions(self, node: NodeProto) -> Iterator[tuple[str, str]]:
        """Dividend and divisor of a Div, or of a Mul by a Reciprocal."""
        if node.op_type == "Div":
            yield node.input[0], node.input[1]
        elif node.op_type == "Mul":
            for dividend, factor in (tuple(node.input), tuple(reversed(node.input))):
                maker = self._graph.maker.get(factor)
                if maker is not None and maker.op_type == "Reciprocal":
                    yield dividend, maker.input[0]

    def _layer_norm(self, divided: str, dividend: str, divisor: str) -> _LayerNorm | None:
        centered, variance = self._centered(dividend), self._variance(divisor)
        if centered is None or variance is None:
            return None
        squared, axis, epsilon = variance
        deviation = self._centered(squared)
        if deviation is None or axis != centered.axis:
            return None
        if (deviation.tensor, deviation.axis) != (centered.tensor, centered.axis):
            return None
        if not self._is_last(axis, centered.tensor) or self._graph.element_type(centered.tensor) not in FLOATS:
            return None
        return self._scaled(divided, centered.tensor, epsilon)

    def _scaled(self, divided: str, entering: str, epsilon: float) -> _LayerNorm | None:
        """The norm with the scale and bias after its division; None if the type or number of channels is unknown."""
        shape, element_type = self._graph.shape(entering), self._graph.element_type(entering)
        channels = shape[-1] if shape else None
        if channels is None or element_type is None:
            return None
        scaled, scale = self._applied("Mul", divided, channels, len(shape or ()))
        output, bias = self._applied("Add", scaled, channels, len(shape or ()))
        ones = np.ones(channels, helper.tensor_dtype_to_np_dtype(element_type))
        return _LayerNorm(entering, output, epsilon, ones if scale is None else scale, bias)

    def _applied(self, operator: str, name: str, channels: int, rank: int) -> tuple[str, NDArray[Any] | None]:
        """The output of an Add or Mul of one number per channel to a tensor, and the numbers.

        If the tensor has another reader, the tensor itself and None.

        Args:
            channels, rank: size of the tensor's last axis, and its number of axes.
        """
        readers = self._graph.readers[name]
        if len(readers) != 1 or name in self._read_elsewhere or readers[0].op_type != operator:
            return name, None
        operands = [operand for operand in readers[0].input if operand != name]
        stored = self._graph.constants.get(operands[0]) if operands else None
        if stored is None or not 1 <= len(stored.dims) <= rank or stored.dims[-1] != channels:
            return name, None
        values = numpy_helper.to_array(stored)
        return (readers[0].output[0], values.reshape(-1)) if values.size == channels else (name, None)

    def _centered(self, name: str) -> _Centered | None:
        node = self._graph.maker.get(name)
        if node is None or node.op_type != "Sub":
            return None
        mean = self._graph.maker.get(node.input[1])
        axis = self._mean_axis(mean)
        if mean is None or axis is None or mean.input[0] != node.input[0]:
            return None
        return _Centered(node.input[0], axis, node.input[1])

    def _variance(self, root: str) -> tuple[str, int, float] | None:
        """The tensor x, the axis and ε of √(mean(x²) + ε); None if the tensor `root` is not such a root."""
        node = self._graph.maker.get(root)
        total = self._graph.maker.get(node.input[0]) if node is not None else None
        if node is None or total is None or total.op_type != "Add":
            return None
        if node.op_type != "Sqrt" and not self._is_power(node, 0.5):
            return None
        for mean_name, epsilon_name in (tuple(total.input), tuple(reversed(total.input))):
            mean, epsilon = self._graph.maker.get(mean_name), self._number(epsilon_name)
            axis = self._mean_axis(mean)
            square = self._graph.maker.get(mean.input[0]) if mean is not None else None
            if epsilon is not None and axis is not None and square is not None and self._squares(square):
                return square.input[0], axis, epsilon
        return None

    def _mean_axis(self, node: NodeProto | None) -> int | None:
        """The axis of a ReduceMean over one axis with keepdims; None for any other node."""
        if node is None or node.op_type != "ReduceMean" or not integer_attribute(node, "keepdims", 1):
            return None
        axes = [list(attribute.ints) for attribute in node.attribute if attribute.name == "axes"]
        if len(node.input) > 1 and node.input[1] in self._graph.constants:
            axes = [numpy_helper.to_array(self._graph.constants[node.input[1]]).reshape(-1).tolist()]
        return int(axes[0][0]) if axes and len(axes[0]) == 1 else None

    def _is_last(self, axis: int, tensor: str) -> bool:
        shape = self._graph.shape(tensor)
        return bool(shape and axis in (-1, len(shape) - 1))

    def _squares(self, node: NodeProto) -> bool:
        return (node.op_type == "Mul" and node.input[0] == node.input[1]) or self._is_power(node, 2)

    def _is_power(self, node: NodeProto, exponent: float) -> bool:
        return node.op_type == "Pow" and self._number(node.input[1]) == exponent

    def _number(self, name: str) -> float | None:
        stored = self._graph.constants.get(name)
        values = numpy_helper.to_array(stored) if stored is not None else np.zeros(0)
        return float(values.item()) if values.size == 1 else None


def _read_nodes(nodes: list[NodeProto], read: set[str]) -> list[NodeProto]:
    """The nodes whose outputs are in `read`, or that such nodes need, in order."""
    read, kept = set(read), list[NodeProto]()
    for node in reversed(nodes):
        if read & set(node.output):
            kept.append(node)
            read.update(node.input)
    return kept[::-1]
