"""The contents of an ONNX graph: layers, costs and precisions, as ONNX Runtime runs them on this machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from onnx import NodeProto, ValueInfoProto

from edgevit.artifacts import IOSpec, Json
from edgevit.checking.check import graph_of
from edgevit.checking.onnxruntime import optimized_or_refused, rounded_products
from edgevit.checking.precision import Product, asked_type, products
from edgevit.checking.shapes import for_one_image
from edgevit.configs.runtimes import ONNXRUNTIME, TENSORRT
from edgevit.graphs.cost import Peak, macs, peak_activations, weights_bytes
from edgevit.graphs.files import read_onnx
from edgevit.graphs.graph import OPERANDS, UNCOUNTED, Graph
from edgevit.graphs.metadata import runtime_options_of, written_iospec
from edgevit.graphs.tensors import inputs_of
from edgevit.graphs.types import short_type_name
from edgevit.graphs.walk import operator_counts, opset_of
from edgevit.model_file import RuntimeOptions, json_of_options
from edgevit.quantization.dialects import BESIDE_INT8, DIALECTS, why_float

Shape = tuple[int | None, ...] | None


@dataclass(frozen=True)
class Layer:
    """A product or convolution, for one image or one batch.

    Attributes:
        product: the precision that it asks for, and gets from ONNX Runtime.
        macs: None if a size is unknown.
        ran_as: the operator that computes it in ONNX Runtime; "" if there is none, or the graph could not be loaded.
        why_float: why it is not quantized or, in a float graph, would not be; "" otherwise.
        is_rounded: whether ONNX Runtime rounds its float weights to integers.
    """

    product: Product
    operands: tuple[Shape, Shape]
    output: Shape
    macs: int | None
    ran_as: str
    why_float: str
    is_rounded: bool

    @property
    def operands_text(self) -> str:
        """1×197×192 · 192×576"""
        return " · ".join(map(_text, self.operands))

    @property
    def output_text(self) -> str:
        """1×197×576"""
        return _text(self.output)


@dataclass(frozen=True)
class DeclaredTensor:
    """An input or output in the file's declaration. An open size is a name or "?"."""

    name: str
    type: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Inspection:
    """The contents of a file.

    Attributes:
        operators: the number of nodes by operator and type of output, most frequent first.
        in_subgraphs: the number of nodes by operator in the bodies of If, Loop and Scan. Other figures leave them out.
        weights_bytes: by type.
        peak: the highest memory of activations; None if a shape is unknown.
        attentions: the number of attentions.
        unfused: the Softmax nodes of attentions that ONNX Runtime runs as several operators.
        spec: edgevit's metadata in the file; None for a file of another tool.
        options: of the runtime, in edgevit's metadata; ONNX Runtime's defaults for a file of another tool.
        runtime: ONNX Runtime with its version; None if it cannot load the graph.
        refused: why ONNX Runtime cannot load the graph; "" if it can.
    """

    path: Path
    opset: int
    inputs: tuple[DeclaredTensor, ...]
    outputs: tuple[DeclaredTensor, ...]
    operators: dict[str, dict[str, int]]
    in_subgraphs: dict[str, int]
    layers: tuple[Layer, ...]
    weights_bytes: dict[str, int]
    peak: Peak | None
    attentions: int
    unfused: tuple[str, ...]
    spec: IOSpec | None
    options: RuntimeOptions
    runtime: str | None
    refused: str

    @property
    def session_options(self) -> Json:
        """The options as they stand in the file's metadata."""
        return json_of_options(self.options)

    @property
    def macs(self) -> int | None:
        """MACs of all layers; None if the MACs of a layer are unknown, or layers in subgraphs may repeat."""
        known = [layer.macs for layer in self.layers if layer.macs is not None]
        uncounted = UNCOUNTED & self.operators.keys() | (UNCOUNTED | OPERANDS.keys()) & self.in_subgraphs.keys()
        return sum(known) if len(known) == len(self.layers) and not uncounted else None

    @property
    def batch(self) -> int:
        """The number of images that all figures are for: the file's fixed batch size, or 1."""
        size = self.inputs[0].shape[0] if self.inputs and self.inputs[0].shape else None
        return size if isinstance(size, int) else 1

    @property
    def extent(self) -> str:
        """The images that all figures are for, in words."""
        return "one image" if self.batch == 1 else f"one batch of {self.batch}, fixed by the file"

    @property
    def is_quantized(self) -> bool:
        """Whether any layer is quantized."""
        return any(layer.product.is_quantized for layer in self.layers)

    @property
    def rounded(self) -> list[Layer]:
        """The layers whose float weights ONNX Runtime rounds to integers."""
        return [layer for layer in self.layers if layer.is_rounded]

    @property
    def stays_float(self) -> dict[str, list[Layer]]:
        """The layers that are not quantized or, in a float graph, would not be, by the reason."""
        by_reason: dict[str, list[Layer]] = {}
        for layer in self.layers:
            if layer.why_float:
                by_reason.setdefault(layer.why_float, []).append(layer)
        return by_reason

    def to_json(self) -> Json:
        """The whole inspection."""
        return {
            "path": str(self.path),
            "opset": self.opset,
            "inputs": [asdict(tensor) for tensor in self.inputs],
            "outputs": [asdict(tensor) for tensor in self.outputs],
            "operators": self.operators,
            "in_subgraphs": self.in_subgraphs,
            "batch": self.batch,
            "macs": self.macs,
            "layers": [_flat(asdict(layer)) for layer in self.layers],
            "weights_bytes": self.weights_bytes,
            "peak_activations": asdict(self.peak) if self.peak is not None else None,
            "attentions": self.attentions,
            "unfused_attentions": list(self.unfused) if self.runtime is not None else None,
            "iospec": self.spec.model_dump(mode="json") if self.spec is not None else None,
            "session_options": self.session_options,
            "runtime": self.runtime,
            "refused": self.refused or None,
        }


def inspect_onnx(path: Path) -> Inspection:
    """Read a file, count its contents, and let ONNX Runtime optimize it.

    Shapes, MACs and memory are for one image, or for one batch if the file fixes the batch size.

    Raises:
        ArtifactError: the file is not a valid ONNX file.
    """
    model = read_onnx(path)
    options = runtime_options_of(model, path)
    # The graph is optimized with its own batch size, open or fixed, because fusions depend on it.
    as_declared, graph = graph_of(model, path), graph_of(for_one_image(model), path)
    optimized, refused = optimized_or_refused(as_declared, options)
    checked = products(graph, optimized.got if optimized else {})
    rounded = set(rounded_products(graph, checked))
    ran_as = optimized.ran_as if optimized else {}
    return Inspection(
        path=path,
        opset=opset_of(model),
        inputs=tuple(map(_declared, inputs_of(model))),
        outputs=tuple(map(_declared, model.graph.output)),
        operators=_operators(graph),
        in_subgraphs=_in_subgraphs(graph),
        layers=tuple(
            _layer(node, product, graph, ran_as, product in rounded)
            for node, product in zip(graph.of_type(*OPERANDS), checked, strict=True)
        ),
        weights_bytes=weights_bytes(graph),
        peak=peak_activations(graph),
        attentions=len(graph.attentions),
        unfused=optimized.unfused if optimized else (),
        spec=written_iospec(model, path),
        options=options,
        runtime=optimized.runtime if optimized else None,
        refused=refused,
    )


def _layer(node: NodeProto, product: Product, graph: Graph, ran_as: Mapping[str, str], is_rounded: bool) -> Layer:
    first, second = (node.input[position] for position in OPERANDS[node.op_type])
    return Layer(
        product=product,
        operands=(graph.shape(first), graph.shape(second)),
        output=graph.shape(node.output[0]),
        macs=macs(node, graph),
        ran_as=ran_as.get(product.node, ""),
        why_float="" if product.is_quantized or is_rounded else _why_float(node, graph),
        is_rounded=is_rounded,
    )


def _why_float(node: NodeProto, graph: Graph) -> str:
    operands = node.input[:2]
    if not any(map(graph.is_weight, operands)):
        return "a product of two activations"
    ends = [end for end in map(graph.pair_end, operands) if end is not None]
    if any(graph.is_weight(end.input[0]) for end in ends):
        return "its weights are quantized, its activation is not"
    if graph.quantized_precision is None:
        return why_float(node, graph.weight_shapes, DIALECTS[TENSORRT.name])
    # The graph does not say for which runtime it was quantized to int8.
    dialect = BESIDE_INT8.get(graph.quantized_precision, DIALECTS[ONNXRUNTIME.name])
    return why_float(node, graph.weight_shapes, dialect) or "its quantizer left it float"


def _text(shape: Shape) -> str:
    return "?" if shape is None else "×".join("?" if size is None else str(size) for size in shape) or "1"


def _flat(layer: Json) -> Json:
    return {**layer.pop("product"), **layer}


def _operators(graph: Graph) -> dict[str, dict[str, int]]:
    counted: dict[str, Counter[str]] = {}
    for node in graph.nodes:
        is_layer = node.op_type in OPERANDS
        type_name = asked_type(node, graph) if is_layer else short_type_name(graph.element_type(node.output[0]))
        counted.setdefault(node.op_type, Counter())[type_name] += 1
    by_count = sorted(counted.items(), key=lambda item: (-item[1].total(), item[0]))
    return {operator: dict(types.most_common()) for operator, types in by_count}


def _in_subgraphs(graph: Graph) -> dict[str, int]:
    inner = operator_counts(graph.model) - Counter(node.op_type for node in graph.nodes)
    return dict(inner.most_common())


def _declared(value: ValueInfoProto) -> DeclaredTensor:
    tensor = value.type.tensor_type
    sizes = (size.dim_value if size.HasField("dim_value") else size.dim_param or "?" for size in tensor.shape.dim)
    return DeclaredTensor(value.name, short_type_name(tensor.elem_type), tuple(sizes))
