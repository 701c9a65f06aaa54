"""The kernels of a graph: nodes that TensorRT is likely to run in one launch, with their work and their traffic.

Activations, biases and residual additions follow the product before them. Softmax and the two products of an attention
are one kernel. Quantize and dequantize nodes and views cost nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Literal, get_args

from onnx import NodeProto

from edgevit.graphs.cost import VIEWS, macs
from edgevit.graphs.graph import CONVOLUTIONS, OPERANDS, PAIR, Graph
from edgevit.graphs.walk import integer_attribute, operator_counts

Kind = Literal["spatial_conv", "pointwise_conv", "grouped_conv", "depthwise_conv", "product", "attention", "memory"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Step = Literal["function", "norm", "copy", "transpose", "pointwise"]
STEPS: tuple[Step, ...] = get_args(Step)

FREE = {*VIEWS, *PAIR, "Cast", "Dropout", "DynamicQuantizeLinear"}
SHAPE_OPERATORS = {"Shape", "Size"}
POINTWISE = {
    "Abs", "Add", "BatchNormalization", "Ceil", "Clip", "Cos", "Div", "Elu", "Equal", "Erf", "Exp", "FastGelu", "Floor",
    "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max",
    "Mean", "Min", "Mish", "Mul", "Neg", "Not", "PRelu", "Pow", "QuickGelu", "Reciprocal", "Relu", "Round", "Selu",
    "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Tanh", "ThresholdedRelu", "Where",
}  # fmt: skip
EPILOGUES = {"Add", "BatchNormalization", "Clip", "LeakyRelu", "PRelu", "Relu", "Sub"}  # run inside a convolution
REDUCTIONS = {
    "GlobalAveragePool", "GlobalMaxPool", "GroupNormalization", "InstanceNormalization", "LayerNormalization",
    "LogSoftmax", "LpNormalization", "RMSNormalization", "ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin",
    "ReduceSum", "ReduceSumSquare", "SimplifiedLayerNormalization", "SkipLayerNormalization", "Softmax",
}  # fmt: skip
POOLS = {"AveragePool", "LpPool", "MaxPool"}
COPIES = {
    "Concat", "DepthToSpace", "Expand", "Gather", "GatherElements", "GatherND", "Pad", "Resize", "Slice",
    "SpaceToDepth", "Split", "Tile", "Transpose", "Upsample",
}  # fmt: skip
PARTIAL_READERS = {"Gather", "GatherElements", "GatherND", "Slice", "Split"}  # read only what they write
FUNCTIONS = {"Erf", "Exp", "FastGelu", "Gelu", "HardSigmoid", "Log", "LogSoftmax", "Mish", "Pow", "QuickGelu", "Selu",
             "Sigmoid", "Sin", "Cos", "Softmax", "Softplus", "Tanh"}  # fmt: skip
NORMS = REDUCTIONS - FUNCTIONS
ON_INTEGERS = {
    *OPERANDS, "Add", "AveragePool", "Clip", "Concat", "GlobalAveragePool", "LeakyRelu", "MaxPool", "Mul", "Relu",
    "Reshape", "Resize", "Sigmoid", "Slice", "Softmax", "Split", "Transpose", "Where",
}  # fmt: skip
KNOWN = {*FREE, *SHAPE_OPERATORS, *POINTWISE, *REDUCTIONS, *POOLS, *COPIES, *OPERANDS, "Constant", "ConstantOfShape"}


@dataclass(frozen=True)
class Kernel:
    """Nodes that run in one launch, for one image. Sizes are numbers of elements, whatever their precision.

    Attributes:
        kind: what decides the rate; "memory" multiplies nothing.
        macs: multiply-accumulates.
        positions: output elements of a channel: the rows of the matrix product that a convolution is.
        channels: output channels of a group.
        depth: multiply-accumulates for an output element.
        activations: elements read and written.
        weights: elements of constants.
        is_int8: whether the graph asks for INT8; False in a float graph.
        nodes: operators in it.
        elements: of its operators, by `Step`: elements that a function, a copy, a transposition or another pointwise
            operator writes, and that a norm reads.
    """

    kind: Kind
    macs: int
    positions: int
    channels: int
    depth: int
    activations: int
    weights: int
    is_int8: bool = False
    nodes: int = 1
    elements: tuple[tuple[Step, int], ...] = ()


@dataclass(frozen=True)
class KernelPlan:
    """The kernels of a graph.

    Attributes:
        unknown: the number of nodes by operator, for operators without a rule. Each counts as a kernel that reads its
            inputs and writes its outputs.
        unsized: the number of nodes by operator, for nodes with an open size. Their work is left out.
        in_subgraphs: the number of nodes by operator in the bodies of If, Loop and Scan. They are no kernels here.
        rounded: elements of an image that are rounded to 8 bits behind an operator that computes in float.
    """

    kernels: tuple[Kernel, ...]
    unknown: dict[str, int]
    unsized: dict[str, int]
    in_subgraphs: dict[str, int] = field(default_factory=dict)
    rounded: int = 0

    @property
    def macs(self) -> int:
        return sum(kernel.macs for kernel in self.kernels)


def kernels_of(graph: Graph, batch: int = 1) -> KernelPlan:
    """The kernels of a graph whose shapes are for `batch` images, counted for one image."""
    groups = _Grouping(graph).groups()
    unknown = Counter(node.op_type for group in groups for node in group.nodes if node.op_type not in KNOWN)
    sized = [group for group in groups if _is_sized(group.nodes, graph)]
    unsized = Counter(node.op_type for group in groups if group not in sized for node in group.nodes)
    kernels = tuple(_kernel(group, graph, batch) for group in sized)
    inner = operator_counts(graph.model) - Counter(node.op_type for node in graph.nodes)
    untold, open_sized, nested = (dict(counts.most_common()) for counts in (unknown, unsized, inner))
    return KernelPlan(kernels, untold, open_sized, nested, _rounded(graph) // batch)


@dataclass(eq=False)
class _Group:
    """Nodes of one kernel, in the order of the graph; `anchor` decides the kind."""

    anchor: NodeProto
    is_attention: bool = False
    nodes: list[NodeProto] = field(default_factory=list)


class _Grouping:
    """Puts each node of a graph that computes something into a group."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._fixed = _fixed_tensors(graph)
        self._sources: dict[str, str] = {}
        self._group_of: dict[str, _Group] = {}
        self._order = {name: index for index, node in enumerate(graph.nodes) for name in node.output}

    def groups(self) -> list[_Group]:
        groups: dict[int, _Group] = {}
        for node in self._graph.nodes:
            if all(name in self._fixed for name in node.output):
                continue
            if node.op_type in FREE:
                self._sources[node.output[0]] = self._source(node.input[0])
                continue
            group = self._joined(node) or _Group(node)
            group.nodes.append(node)
            groups[id(group)] = group
            self._group_of.update(dict.fromkeys(node.output, group))
        return self._with_feeders_of_attentions(list(groups.values()))

    def _source(self, name: str) -> str:
        """The tensor in whose memory a view lies."""
        return self._sources.get(name, name)

    def _inputs(self, node: NodeProto) -> list[str]:
        """The tensors that a node reads, latest first, without constants."""
        names = {self._source(name) for name in node.input if name and name not in self._fixed}
        return sorted(names, key=lambda name: -self._order.get(name, -1))

    def _joined(self, node: NodeProto) -> _Group | None:
        """The group that a node joins; None if it starts a group."""
        inputs = self._inputs(node)
        before = self._group_of.get(inputs[0]) if inputs else None
        if before is None:
            return None
        if node.op_type in POINTWISE:
            return before if self._is_fused(node, before, inputs[0]) else None
        if node.op_type == "Softmax" and self._is_product_of_activations(before.anchor):
            before.is_attention = True
            return before
        if before.is_attention and (node.op_type in COPIES or self._is_product_of_activations(node)):
            return before
        if node.op_type in REDUCTIONS and node.op_type != "GlobalAveragePool":
            return before if before.anchor.op_type in REDUCTIONS else None
        return before if node.op_type in COPIES and before.anchor.op_type in COPIES else None

    def _is_fused(self, node: NodeProto, before: _Group, latest: str) -> bool:
        """Whether a pointwise node runs in the kernel that makes its latest input.

        A convolution takes in ReLU, additions and scales by constants. Other activations are a kernel behind it.
        """
        if before.anchor.op_type in REDUCTIONS:
            return True
        if _count(self._graph, latest) != _count(self._graph, node.output[0]):
            return False
        if before.anchor.op_type not in CONVOLUTIONS:
            return True
        is_scale = node.op_type == "Mul" and len(self._inputs(node)) == 1
        return (is_scale or node.op_type in EPILOGUES) and len(self._graph.readers[latest]) == 1

    def _is_product_of_activations(self, node: NodeProto) -> bool:
        return node.op_type == "MatMul" and not any(self._graph.is_weight(name) for name in node.input[:2])

    def _with_feeders_of_attentions(self, groups: list[_Group]) -> list[_Group]:
        """The groups, where copies and scales that only an attention reads are a part of it."""
        kept: list[_Group] = []
        for group in reversed(groups):
            readers = self._readers(group)
            (into, *others) = readers or [group]
            if not others and into.is_attention and into is not group and group.anchor.op_type in {*COPIES, *POINTWISE}:
                into.nodes[:0] = group.nodes
                self._group_of.update({name: into for node in group.nodes for name in node.output})
            else:
                kept.append(group)
        return kept[::-1]

    def _readers(self, group: _Group) -> list[_Group]:
        """The other groups that read what a group writes."""
        names = [name for node in group.nodes for name in node.output]
        found: dict[int, _Group] = {}
        while names:
            for reader in self._graph.readers[names.pop()]:
                if reader.op_type in FREE:
                    names += reader.output
                elif (other := self._group_of.get(reader.output[0])) is not None and other is not group:
                    found[id(other)] = other
        return list(found.values())


def _rounded(graph: Graph) -> int:
    """Elements that QuantizeLinear reads from operators which compute in float."""
    pairs = [node for node in graph.of_type("QuantizeLinear") if not graph.is_weight(node.input[0])]
    return sum(_count(graph, node.input[0]) or 0 for node in pairs if not _is_in_integers(node.input[0], graph))


def _is_in_integers(name: str, graph: Graph) -> bool:
    """Whether the operator that makes a tensor runs on integers in ONNX Runtime: all that it reads is dequantized."""
    maker = graph.maker.get(name)
    if maker is None or maker.op_type not in ON_INTEGERS:
        return False
    read = [one for one in maker.input if one and one not in graph.constants and not graph.is_weight(one)]
    return bool(read) and all(graph.pair_end(one) is not None for one in read)


def _fixed_tensors(graph: Graph) -> set[str]:
    """Names of tensors that depend on no input's values: constants, shapes, and what is computed from these alone."""
    fixed = set(graph.constants)
    for node in graph.nodes:
        if node.op_type in SHAPE_OPERATORS or all(name in fixed for name in node.input if name):
            fixed.update(node.output)
    return fixed


def _is_sized(nodes: Iterable[NodeProto], graph: Graph) -> bool:
    return all(_count(graph, name) is not None for node in nodes for name in (*node.input, *node.output) if name)


def _count(graph: Graph, name: str) -> int | None:
    """The number of elements of a tensor; None if a size is open."""
    shape = graph.shape(name)
    return None if shape is None or None in shape else math.prod(size for size in shape if size is not None)


def _kernel(group: _Group, graph: Graph, batch: int) -> Kernel:
    products = [node for node in group.nodes if node.op_type in OPERANDS]
    written = {name for node in group.nodes for name in node.output if name}
    read = {name: node for node in group.nodes for name in node.input if name and name not in written}
    weights = sum(_count(graph, name) or 0 for name in read if name in graph.constants or graph.is_weight(name))
    inputs = [name for name in read if not (name in graph.constants or graph.is_weight(name))]
    into = sum(_elements_read(name, read[name], graph) for name in inputs)
    out = sum(_count(graph, name) or 0 for name in written if _is_read_outside(name, group, graph))
    work = sum(macs(node, graph) or 0 for node in products)
    positions, channels, depth = _matrix_sizes(products[0], graph) if products else (0, 0, 0)
    return Kernel(
        kind=_kind(group, products, graph),
        macs=work // batch,
        positions=positions // batch,
        channels=channels,
        depth=depth,
        activations=(into + out) // batch,
        weights=weights,
        is_int8=bool(products) and all(graph.asked_precision(node) == "int8" for node in products),
        nodes=len(group.nodes),
        elements=_elements(group.nodes, graph, batch),
    )


def _elements(nodes: Iterable[NodeProto], graph: Graph, batch: int) -> tuple[tuple[Step, int], ...]:
    elements = Counter[Step]()
    for node in nodes:
        if (step := _step(node.op_type)) is not None:
            names = node.input[:1] if step == "norm" else node.output
            elements[step] += sum(_count(graph, name) or 0 for name in names if name) // batch
    return tuple(elements.items())


def _step(operator: str) -> Step | None:
    if operator == "Transpose":
        return "transpose"
    kinds: tuple[tuple[Step, Collection[str]], ...] = (
        ("function", FUNCTIONS), ("norm", NORMS), ("copy", COPIES), ("pointwise", POINTWISE),
    )  # fmt: skip
    return next((step for step, operators in kinds if operator in operators), None)


def _kind(group: _Group, products: list[NodeProto], graph: Graph) -> Kind:
    if group.is_attention:
        return "attention"
    if not products:
        return "memory"
    product = products[0]
    if product.op_type == "Attention":
        return "attention"
    if product.op_type not in {*CONVOLUTIONS, "ConvTranspose"}:
        return "product"
    weight = graph.shape(product.input[OPERANDS[product.op_type][1]]) or ()
    if integer_attribute(product, "group", 1) > 1:
        return "depthwise_conv" if weight[1] == 1 else "grouped_conv"
    return "pointwise_conv" if set(weight[2:]) == {1} else "spatial_conv"


def _matrix_sizes(product: NodeProto, graph: Graph) -> tuple[int, int, int]:
    """Rows, columns and depth of the matrix product that an operator is, for each of its groups or heads."""
    output = [size or 1 for size in graph.shape(product.output[0]) or (1,)]
    total = math.prod(output)
    depth = max(1, (macs(product, graph) or 0) // max(1, total))
    if product.op_type in {*CONVOLUTIONS, "ConvTranspose"}:
        groups = integer_attribute(product, "group", 1)
        channels = max(1, output[1] // groups)
        return total // max(1, output[1]), channels, depth
    return total // max(1, output[-1]), output[-1], depth


def _elements_read(name: str, node: NodeProto, graph: Graph) -> int:
    if node.op_type in PARTIAL_READERS:
        return sum(_count(graph, output) or 0 for output in node.output if output)
    return _count(graph, name) or 0


def _is_read_outside(name: str, group: _Group, graph: Graph) -> bool:
    inside = {id(node) for node in group.nodes}
    readers = graph.readers[name]
    return not readers or any(id(reader) not in inside for reader in readers)
