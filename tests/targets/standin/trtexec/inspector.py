"""The layers of an engine, as --exportLayerInfo writes them: made from the ONNX file in the shape of NVIDIA's builder.

As there: a quantized product is a `gemm` with the Q/DQ pairs of its operands, and the generated layer behind it, which
multiplies by the scale, names it too. A product in 16 or 32 bits is a fusion whose name does not tell which. A head of
fewer than 16 outputs goes into a generated layer. An attention in 16 bits is one layer. Operations on shapes are gone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import onnx
from onnx import ModelProto, NodeProto, TensorProto

from tests.targets.standin.trtexec.options import Shapes

Json = dict[str, Any]

PRODUCTS = ("MatMul", "Gemm", "Conv")
ON_SHAPES = ("Shape", "Constant", "ConstantOfShape", "Gather")
PAIR = ("QuantizeLinear", "DequantizeLinear")
NAMES = {
    TensorProto.FLOAT: "Float", TensorProto.FLOAT16: "Half", TensorProto.BFLOAT16: "BFloat16", TensorProto.INT8: "Int8",
    TensorProto.FLOAT8E4M3FN: "FP8", TensorProto.INT4: "Int4", TensorProto.INT64: "Int64", TensorProto.INT32: "Int32",
    TensorProto.BOOL: "Bool",
}  # fmt: skip
# Recorded with 8.x, which speaks of layout and type in one text.
CONVOLUTION_FORMATS = {
    "Int8": "Thirty-two wide channel vectorized row major Int8 format",
    "Half": "Channel major FP16 format where channel % 8 == 0",
    "Float": "Row major linear FP32",
}
# Of 10.x, by the type that is multiplied.
TACTICS = {
    "Int8": "sm80_xmma_gemm_i8f16_i8i32_f32_tn_n_tilesize64x64x64_stage4_warpsize2x2x1_tensor16x8x32",
    "Half": "sm80_xmma_gemm_f16f16_f16f16_f16_tn_n_tilesize64x64x64_stage4_warpsize2x2x1_tensor16x8x16",
    "Float": "sm80_xmma_gemm_f32f32_f32f32_f32_nn_n_tilesize32x32x8_stage3",
}
UNTOLD = "N/A due to dynamic shapes"  # recorded with 10.x
NARROW = 16  # outputs of a product that is no layer of its own
SEPARATORS = {10: "\x1e", 11: "\x1f"}
KINDS_IN_11 = {"CaskConvolution": "correlation", "fusion": "runtime_fusion"}


@dataclass(frozen=True)
class Tensor:
    name: str
    shape: tuple[int, ...]
    type: str


@dataclass(frozen=True)
class Layer:
    name: str
    kind: str
    inputs: tuple[Tensor, ...]
    constants: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    tactic: str
    nodes: tuple[str, ...]


def layers_json(
    onnx_file: bytes, profile: tuple[Shapes, ...], verbosity: str, major: int, variant: str, has_context: bool
) -> Json:
    """The inspector's answer in the shape of a major version.

    Args:
        has_context: whether it is asked with an execution context. Without one, no tensor of an open size has a type.
        variant: `silent-fallback`, and `int8-falls-back` for INT8: every product runs in FP32. `opaque`,
            `opaque-named`: the network is one layer.
    """
    graph = _Graph(onnx.shape_inference.infer_shapes(onnx.load_from_string(onnx_file)))
    falls_back = variant == "silent-fallback" or (variant == "int8-falls-back" and b"QuantizeLinear" in onnx_file)
    layers = list(_Layers(graph, falls_back).all())
    if variant in ("opaque", "opaque-named"):
        layers = [_opaque(graph, layers, variant == "opaque-named")]
    if verbosity != "detailed":
        written: list[Any] = [layer.name for layer in layers]
    else:
        untold = bool(profile[0]) and not has_context
        written = [_layer_json(_untold(layer) if untold else layer, major) for layer in layers]
    if major < 11:
        return {"Layers": written, "Bindings": [tensor.name for tensor in (*graph.inputs, *graph.outputs)]}
    tensors = [_input_output(graph.tensor(entry.name), "Input", profile) for entry in graph.inputs]
    tensors += [_input_output(graph.tensor(entry.name), "Output", profile) for entry in graph.outputs]
    return {"Layers": written, "I/O Tensors": tensors, "Engine Metadata": {"Multi-Device": "Disabled"}}


class _Graph:
    """A graph with its types and shapes; open sizes are -1."""

    def __init__(self, model: ModelProto) -> None:
        graph = model.graph
        self.constants = {entry.name: entry for entry in graph.initializer}
        self.inputs = [entry for entry in graph.input if entry.name not in self.constants]
        self.outputs = list(graph.output)
        self.producers = {name: node for node in graph.node for name in node.output}
        self.readers: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self._infos = {entry.name: entry.type.tensor_type for entry in (*graph.value_info, *graph.input, *graph.output)}
        self.nodes = [node for node in graph.node if not self._is_on_shapes(node)]

    def tensor(self, name: str) -> Tensor:
        if constant := self.constants.get(name):
            return Tensor(name, tuple(constant.dims), NAMES[constant.data_type])
        info = self._infos[name]
        shape = tuple(entry.dim_value if entry.HasField("dim_value") else -1 for entry in info.shape.dim)
        return Tensor(name, shape, NAMES[info.elem_type])

    def is_constant(self, name: str) -> bool:
        """Whether a tensor is a constant, or one that is dequantized."""
        node = self.producers.get(name)
        return name in self.constants or (node is not None and node.op_type in (*PAIR, "Cast", "Transpose")
                                          and self.is_constant(node.input[0]))  # fmt: skip

    def operand(self, name: str) -> tuple[str, list[NodeProto]]:
        """The type in which a tensor is multiplied, and the Q/DQ nodes before it."""
        end = self.producers.get(name)
        if end is None or end.op_type != "DequantizeLinear":
            return self.tensor(name).type, []
        stored = end.input[0]
        start = self.producers.get(stored)
        pair = [end] if start is None else [start, end]
        zero = end.input[2] if len(end.input) > 2 else ""
        known = zero if zero in self.constants else stored
        return self.tensor(known).type, pair

    def has_values(self, name: str) -> bool:
        """Whether a tensor holds numbers that the network computes with, and no sizes or positions."""
        return name in self._infos and self._infos[name].elem_type != TensorProto.INT64

    def _is_on_shapes(self, node: NodeProto) -> bool:
        return node.op_type in ON_SHAPES or not self.has_values(node.output[0])


@dataclass
class _Layers:
    """Makes layers in the order of the graph."""

    graph: _Graph
    falls_back: bool
    count: int = 0
    names: dict[str, int] = field(default_factory=dict)
    pending: list[NodeProto] = field(default_factory=list)
    scaled: list[NodeProto] = field(default_factory=list)  # a quantized product whose scale comes next, and its pairs

    def all(self) -> Iterator[Layer]:
        attentions = {} if self.falls_back else _attentions(self.graph)
        inside = {id(node) for nodes in attentions.values() for node in nodes}
        for node in self.graph.nodes:
            if id(node) in inside and id(node) not in attentions:
                continue
            if id(node) in attentions:
                yield from self._generated()
                yield self._attention(attentions[id(node)])
            elif node.op_type in PRODUCTS and not self._is_narrow(node):
                pairs = [entry for name in node.input[:2] for entry in self.graph.operand(name)[1]]
                self.pending = [entry for entry in self.pending if entry not in pairs[1:]]
                yield from self._generated()
                yield self._product(node, pairs)
            elif not all(self.graph.is_constant(name) for name in node.input if name):
                self.pending.append(node)
        yield from self._generated()

    def _product(self, node: NodeProto, pairs: list[NodeProto]) -> Layer:
        asked = [self.graph.operand(name)[0] for name in node.input[:2]]
        asked = ["Float", "Float"] if self.falls_back else asked
        given = [self._inner(name, of) for name, of in zip(node.input[:2], asked, strict=True)]
        constant = [self.graph.is_constant(name) for name in node.input[:2]]
        read, fixed = ([tensor for tensor, is_fixed in zip(given, constant, strict=True) if is_fixed is which]
                       for which in (False, True))  # fmt: skip
        out = self._inner(node.output[0], "Float" if self.falls_back else None)
        name, kind = f"{_name(node)}_myl0_{self.count}", "gemm"
        if node.op_type == "Conv":
            name, kind = f"{pairs[-1].input[0] if pairs else node.input[1]} + {_name(node)}", "CaskConvolution"
        elif not pairs and any(constant):
            name, kind = f"__myl_Fc_myl0_{self.count}", "fusion"
        self.count += 1
        nodes = [node, *pairs]
        self.scaled = nodes if pairs and kind == "gemm" else []
        tactic = TACTICS.get(given[0].type, "")
        return Layer(name, kind, tuple(read), tuple(fixed), (out,), tactic, tuple(map(_name, nodes)))

    def _attention(self, nodes: list[NodeProto]) -> Layer:
        first, last = nodes[0], nodes[-1]
        read = (*first.input[:2], last.input[1])
        name = f"_gemm_mha_v2_myl0_{self.count}"
        self.count += 1
        inputs = tuple(self._inner(entry) for entry in read)
        outputs = (self._inner(last.output[0]),)
        return Layer(name, "kgen", inputs, (), outputs, f"_gemm_mha_v2_0x{self.count:032x}", tuple(map(_name, nodes)))

    def _generated(self) -> Iterator[Layer]:
        """The layer of the nodes that wait."""
        nodes, self.pending, scaled, self.scaled = self.pending, [], self.scaled, []
        if not nodes:
            return
        made = {name for node in nodes for name in node.output}
        read = dict.fromkeys(name for node in nodes for name in node.input if name and name not in made)
        known = [self._inner(name) for name in read if not self.graph.is_constant(name) and self.graph.has_values(name)]
        out = self._inner(nodes[-1].output[0])
        name = f"__myl_{'Mul' if scaled else ''}{''.join(node.op_type[:4] for node in nodes)}"
        layer = Layer(f"{name}_myl0_{self.count}", "kgen", tuple(known), (), (out,), f"{name}_0x{self.count:032x}",
                      tuple(map(_name, [*scaled, *nodes])))  # fmt: skip
        self.count += 1
        yield layer

    def _inner(self, name: str, of: str | None = None) -> Tensor:
        """A tensor between layers, which has a name of the builder's own; `of` is the type that it has there."""
        tensor = self.graph.tensor(name)
        ends = {entry.name for entry in (*self.graph.inputs, *self.graph.outputs)}
        inner = name if name in ends else f"__myln_k_arg__bb1_{self.names.setdefault(name, len(self.names))}_myl0"
        return Tensor(inner, tensor.shape, of or tensor.type)

    def _is_narrow(self, node: NodeProto) -> bool:
        is_plain = not any(self.graph.operand(name)[1] for name in node.input[:2])
        return node.op_type == "Gemm" and is_plain and 0 < self.graph.tensor(node.output[0]).shape[-1] < NARROW


def _attentions(graph: _Graph) -> dict[int, list[NodeProto]]:
    """The nodes of each fused attention, by the identity of its second product."""
    found = {}
    for softmax in (node for node in graph.nodes if node.op_type == "Softmax"):
        before, after = [softmax], graph.readers.get(softmax.output[0], [])
        while before[0].op_type in ("Softmax", "Mul", "Add", "Div", "Cast"):
            producer = graph.producers.get(before[0].input[0])
            if producer is None:
                break
            before.insert(0, producer)
        is_whole = before[0].op_type == "MatMul" and len(after) == 1 and after[0].op_type == "MatMul"
        if is_whole and graph.tensor(softmax.output[0]).type != "Float":
            found[id(after[0])] = [*before, after[0]]
    return found


def _opaque(graph: _Graph, layers: list[Layer], is_named: bool) -> Layer:
    """The whole network as one layer, as in a recorded profile of 8.5. Its metadata may name the nodes, as in 10.x."""
    names = [name for layer in layers for name in layer.nodes]
    inputs, outputs = (tuple(graph.tensor(entry.name) for entry in ends) for ends in (graph.inputs, graph.outputs))
    named = tuple(names) if is_named else ()
    return Layer(f"{{ForeignNode[{names[0]}...{names[-1]}]}}", "Myelin", inputs, (), outputs, "", named)


def _untold(layer: Layer) -> Layer:
    inputs, outputs = (tuple(replace(tensor, type=UNTOLD) for tensor in part) for part in (layer.inputs, layer.outputs))
    return replace(layer, inputs=inputs, outputs=outputs)


def _name(node: NodeProto) -> str:
    return node.name or f"node_of_{node.output[0]}"


def _layer_json(layer: Layer, major: int) -> Json:
    metadata = SEPARATORS[major].join(f"[ONNX Layer: {name}]" for name in layer.nodes)
    cask = layer.kind == "CaskConvolution"
    if major < 11:
        tensors = {
            "Inputs": [_tensor_10(tensor, cask) for tensor in layer.inputs],
            "Outputs": [_tensor_10(tensor, cask) for tensor in layer.outputs],
        }
        weights = {"Type": layer.constants[0].type} if cask and layer.constants else None
        more = {"ParameterType": "Convolution", "Weights": weights} if cask else {}
        kind = layer.kind
    else:
        parts = {"Inputs": layer.inputs, "Constants": layer.constants, "Outputs": layer.outputs}
        tensors = {name: [_tensor_11(tensor) for tensor in entries] for name, entries in parts.items()}
        more, kind = {}, KINDS_IN_11.get(layer.kind, layer.kind)
    return {
        "Name": layer.name, "LayerType": kind, **tensors, **more, "TacticName": layer.tactic, "StreamId": 0,
        "Metadata": metadata,
    }  # fmt: skip


def _tensor_10(tensor: Tensor, cask: bool) -> Json:
    text = CONVOLUTION_FORMATS.get(tensor.type, tensor.type) if cask else tensor.type
    where = {"Location": "Device"} if cask else {}
    return {"Name": tensor.name, **where, "Dimensions": list(tensor.shape), "Format/Datatype": text}


def _tensor_11(tensor: Tensor) -> Json:
    strides = [1] * len(tensor.shape)
    for axis in range(len(strides) - 2, -1, -1):
        strides[axis] = strides[axis + 1] * abs(tensor.shape[axis + 1])
    return {
        "Name": tensor.name, "Dimensions": list(tensor.shape), "Strides": strides,
        "StrideOrder": list(reversed(range(len(strides)))), "Datatype": tensor.type,
        "Format": "(Linear) Row major linear format",
    }  # fmt: skip


def _input_output(tensor: Tensor, mode: str, profile: tuple[Shapes, ...]) -> Json:
    layout = {"Format": "Row major linear FP32 format (kLINEAR)"}
    ends = zip(("MinShape", "OptShape", "MaxShape"), profile, strict=True)
    shapes = {end: list(shapes.get(tensor.name, tensor.shape)) for end, shapes in ends} if mode == "Input" else {}
    return {
        "Name": tensor.name, "IOMode": mode, "DataType": tensor.type, "Dimensions": list(tensor.shape),
        "Location": "Device", "IsShapeInferenceIO": False, "ProfileInfo": [{**shapes, **layout}],
    }  # fmt: skip
