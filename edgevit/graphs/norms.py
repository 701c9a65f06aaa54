"""Norms that a graph writes out as arithmetic, and the LayerNormalization that some of them are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgevit.graphs.tensors import constants_of, types_and_shapes, without_unread_weights
from edgevit.graphs.walk import integer_attribute, opset_of, read_elsewhere

OLDEST_OPSET = 17  # of LayerNormalization
LONGEST = 12  # nodes of a norm, from the squares on
FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE)
SQUARE_INSIDE = ("ReduceL2", "ReduceSumSquare")
SUMS = ("ReduceMean", "ReduceSum", "GlobalAveragePool")
# Between squares and the division by their root, with constants beside the one tensor that changes.
ONWARD = (*SUMS, "Add", "Mul", "Div", "Sqrt", "Pow", "Reciprocal", "Clip", "Max", "Expand", "Cast", "Identity")


@dataclass(frozen=True)
class WrittenOutNorm:
    """A tensor divided by the root of its mean square, in several operators.

    Attributes:
        node: the name of the node that squares.
        squares: the tensors from the squares to their root.
        centred: of a layer norm x - mean(x) and mean(x).
    """

    node: str
    squares: tuple[str, ...]
    centred: tuple[str, ...]

    @property
    def inner(self) -> tuple[str, ...]:
        """All tensors within the norm."""
        return self.squares + self.centred


def written_out_norms(model: ModelProto) -> list[WrittenOutNorm]:
    """The norms of the main graph that are written as squares, their mean or sum, and its root, in graph order."""
    return list(_Graph(model).norms())


def with_fused_norms(model: ModelProto) -> ModelProto:
    """A copy in which each written-out layer norm over the last axis is one LayerNormalization.

    The function stays equal: (x - mean x) / √(mean (x - mean x)² + ε), times a scale and plus a bias where these follow
    with one number a channel. LayerNormalization is computed in float32 even where its tensors are float16. Below
    opset 17, which has no such operator, nothing changes.
    """
    made = ModelProto()
    made.CopyFrom(model)
    fused = {norm.made: norm for norm in _Graph(model).layer_norms()} if opset_of(model) >= OLDEST_OPSET else {}
    if not fused:
        return made
    replaced = [fused[node.output[0]].node if node.output[0] in fused else node for node in model.graph.node]
    del made.graph.node[:]
    made.graph.node.extend(_read_nodes(replaced, read_elsewhere(model)))
    for norm in fused.values():
        made.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in norm.constants.items())
    return without_unread_weights(made)


@dataclass(frozen=True)
class _LayerNorm:
    entering: str
    made: str
    epsilon: float
    scale: NDArray[Any]
    bias: NDArray[Any] | None

    @property
    def constants(self) -> dict[str, NDArray[Any]]:
        bias = {} if self.bias is None else {f"{self.made}/edgevit_norm/bias": self.bias}
        return {f"{self.made}/edgevit_norm/scale": self.scale, **bias}

    @property
    def node(self) -> NodeProto:
        inputs, name = [self.entering, *self.constants], f"{self.made}/edgevit_norm"
        return helper.make_node("LayerNormalization", inputs, [self.made], name, axis=-1, epsilon=self.epsilon)


@dataclass(frozen=True)
class _Centred:
    """tensor - mean(tensor) over an axis."""

    tensor: str
    axis: int
    mean: str


class _Graph:
    """The main graph of a model, asked for its norms."""

    def __init__(self, model: ModelProto) -> None:
        self._nodes = list(model.graph.node)
        self._constants = constants_of(model)
        self._maker = {name: node for node in self._nodes for name in node.output if name}
        self._readers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in self._nodes:
            for name in dict.fromkeys(node.input):
                self._readers[name].append(node)
        self._read_elsewhere = read_elsewhere(model)
        self._model = model

    @cached_property
    def _typed(self) -> tuple[dict[str, int], dict[str, tuple[int | None, ...]]]:
        return types_and_shapes(self._model)

    @property
    def _types(self) -> dict[str, int]:
        return self._typed[0]

    @property
    def _shapes(self) -> dict[str, tuple[int | None, ...]]:
        return self._typed[1]

    def norms(self) -> Iterator[WrittenOutNorm]:
        for node in self._nodes:
            path = self._onward(node) if node.op_type in SQUARE_INSIDE or self._squares(node) else []
            has_sum = any(one.op_type in (*SUMS, *SQUARE_INSIDE) for one in path)
            if has_sum and any(self._takes_root(one) for one in path):
                centred = self._centred(node.input[0])
                around = (node.input[0], centred.mean) if centred else ()
                yield WrittenOutNorm(node.name, tuple(one.output[0] for one in path), around)

    def layer_norms(self) -> Iterator[_LayerNorm]:
        for node in self._nodes:
            for dividend, root in self._divisions(node):
                found = self._layer_norm(node.output[0], dividend, root)
                if found is not None:
                    yield found

    def _onward(self, start: NodeProto) -> list[NodeProto]:
        """A squaring node and those behind it, up to the division."""
        path = [start]
        while len(path) < LONGEST:
            onward = [node for node in self._readers[path[-1].output[0]] if self._is_onward(node, path[-1])]
            if not onward:
                break
            path.append(onward[0])
        return path

    def _is_onward(self, node: NodeProto, before: NodeProto) -> bool:
        others = [name for name in node.input if name and name != before.output[0]]
        return node.op_type in ONWARD and len(node.output) == 1 and all(name in self._constants for name in others)

    def _takes_root(self, node: NodeProto) -> bool:
        return node.op_type in ("Sqrt", "ReduceL2") or self._is_power(node, 0.5) or self._is_power(node, -0.5)

    def _divisions(self, node: NodeProto) -> Iterator[tuple[str, str]]:
        """Dividend and divisor of a Div, or of a Mul by a Reciprocal."""
        if node.op_type == "Div":
            yield node.input[0], node.input[1]
        elif node.op_type == "Mul":
            for dividend, factor in (tuple(node.input), tuple(reversed(node.input))):
                maker = self._maker.get(factor)
                if maker is not None and maker.op_type == "Reciprocal":
                    yield dividend, maker.input[0]

    def _layer_norm(self, divided: str, dividend: str, divisor: str) -> _LayerNorm | None:
        centred, variance = self._centred(dividend), self._variance(divisor)
        if centred is None or variance is None:
            return None
        squared, axis, epsilon = variance
        other = self._centred(squared)
        if other is None or (other.tensor, other.axis) != (centred.tensor, centred.axis) or axis != centred.axis:
            return None
        if not self._is_last(axis, centred.tensor) or self._types.get(centred.tensor) not in FLOATS:
            return None
        return self._scaled(divided, centred.tensor, epsilon)

    def _scaled(self, divided: str, entering: str, epsilon: float) -> _LayerNorm | None:
        """The norm with the scale and the bias behind its division; None where its number of channels is open."""
        made, scale = self._applied("Mul", divided, entering)
        made, bias = self._applied("Add", made, entering)
        channels = self._shapes[entering][-1]
        if channels is None:
            return None
        ones = np.ones(channels, helper.tensor_dtype_to_np_dtype(self._types[entering]))
        return _LayerNorm(entering, made, epsilon, ones if scale is None else scale, bias)

    def _applied(self, operator: str, name: str, entering: str) -> tuple[str, NDArray[Any] | None]:
        """What an Add or Mul of one number a channel makes of a tensor, and the numbers; else the tensor and None."""
        readers = self._readers[name]
        if len(readers) != 1 or name in self._read_elsewhere or readers[0].op_type != operator:
            return name, None
        others = [one for one in readers[0].input if one != name]
        stored = self._constants.get(others[0]) if others else None
        shape = self._shapes[entering]
        if stored is None or not 1 <= len(stored.dims) <= len(shape) or stored.dims[-1] != shape[-1]:
            return name, None
        values = numpy_helper.to_array(stored)
        return (readers[0].output[0], values.reshape(-1)) if values.size == shape[-1] else (name, None)

    def _centred(self, name: str) -> _Centred | None:
        node = self._maker.get(name)
        if node is None or node.op_type != "Sub":
            return None
        mean = self._maker.get(node.input[1])
        axis = self._mean_axis(mean)
        if mean is None or axis is None or mean.input[0] != node.input[0]:
            return None
        return _Centred(node.input[0], axis, node.input[1])

    def _variance(self, root: str) -> tuple[str, int, float] | None:
        """The tensor x, the axis and ε of √(mean(x²) + ε)."""
        node = self._maker.get(root)
        total = self._maker.get(node.input[0]) if node is not None else None
        if node is None or total is None or total.op_type != "Add":
            return None
        if node.op_type != "Sqrt" and not self._is_power(node, 0.5):
            return None
        for mean_name, epsilon_name in (tuple(total.input), tuple(reversed(total.input))):
            mean, epsilon = self._maker.get(mean_name), self._number(epsilon_name)
            axis = self._mean_axis(mean)
            square = self._maker.get(mean.input[0]) if mean is not None else None
            if epsilon is not None and axis is not None and square is not None and self._squares(square):
                return square.input[0], axis, epsilon
        return None

    def _mean_axis(self, node: NodeProto | None) -> int | None:
        """The one axis of a ReduceMean that keeps it; None of any other node."""
        if node is None or node.op_type != "ReduceMean" or not integer_attribute(node, "keepdims", 1):
            return None
        axes = [list(one.ints) for one in node.attribute if one.name == "axes"]
        if len(node.input) > 1 and node.input[1] in self._constants:
            axes = [numpy_helper.to_array(self._constants[node.input[1]]).reshape(-1).tolist()]
        return int(axes[0][0]) if axes and len(axes[0]) == 1 else None

    def _is_last(self, axis: int, tensor: str) -> bool:
        shape = self._shapes.get(tensor, ())
        return bool(shape) and axis in (-1, len(shape) - 1)

    def _squares(self, node: NodeProto) -> bool:
        return (node.op_type == "Mul" and node.input[0] == node.input[1]) or self._is_power(node, 2)

    def _is_power(self, node: NodeProto, exponent: float) -> bool:
        return node.op_type == "Pow" and self._number(node.input[1]) == exponent

    def _number(self, name: str) -> float | None:
        stored = self._constants.get(name)
        values = numpy_helper.to_array(stored) if stored is not None else np.zeros(0)
        return float(values.item()) if values.size == 1 else None


def _read_nodes(nodes: list[NodeProto], read: set[str]) -> list[NodeProto]:
    """The nodes, in order, whose outputs are in `read` or enter another such node."""
    read, kept = set(read), list[NodeProto]()
    for node in reversed(nodes):
        if read & set(node.output):
            kept.append(node)
            read.update(node.input)
    return kept[::-1]
