"""What is in an ONNX graph, and what ONNX Runtime would run of it on this machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from onnx import NodeProto, ValueInfoProto

from edgevit.artifacts import IOSpec, Json
from edgevit.checking.check import graph_of
from edgevit.checking.onnxruntime import optimized_or_refused
from edgevit.checking.precision import Product, asked, products
from edgevit.checking.shapes import for_one_image
from edgevit.configs.runtimes import ONNXRUNTIME, TENSORRT
from edgevit.graphs.cost import Peak, macs, peak_activations, weights_bytes
from edgevit.graphs.files import read_onnx
from edgevit.graphs.graph import OPERANDS, UNCOUNTED, Graph
from edgevit.graphs.metadata import session_options_of, written_iospec
from edgevit.graphs.tensors import inputs_of
from edgevit.graphs.types import short_type_name
from edgevit.graphs.walk import operator_counts, opset_of
from edgevit.quantization.dialects import BESIDE_INT8, DIALECTS, why_float

Shape = tuple[int | None, ...] | None


@dataclass(frozen=True)
class Layer:
    """A product or convolution, for one image or one batch.

    Attributes:
        product: what it asks for, and gets from ONNX Runtime.
        ran_as: the operator that computes it there; "" where none does, or it could not be loaded.
        macs: None where a size is not known.
        why_float: why it is not quantized, or would not be once the graph is where that is float; "" for none.
    """

    product: Product
    operands: tuple[Shape, Shape]
    output: Shape
    macs: int | None
    ran_as: str
    why_float: str

    @property
    def operands_text(self) -> str:
        """1×197×192 · 192×576"""
        return " · ".join(map(_text, self.operands))

    @property
    def output_text(self) -> str:
        """1×197×576"""
        return _text(self.output)


@dataclass(frozen=True)
class Tensor:
    """An input or an output as the file declares it: an open size is a name or "?"."""

    name: str
    type: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Inspected:
    """What was found in a file.

    Attributes:
        operators: how many nodes of each operator give numbers of each type, commonest first.
        in_subgraphs: how many nodes of each operator are in bodies of If, Loop and Scan: no other number counts them.
        weights_bytes: by type.
        peak: None where a shape is not known.
        unfused: the Softmax nodes of attentions that ONNX Runtime runs as several operators.
        spec, session_options: what edgevit wrote into the file; None and empty in one made elsewhere.
        runtime: what was asked what it makes of the graph; None where it cannot load it, and then `refused` says why.
    """

    path: Path
    opset: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    operators: dict[str, dict[str, int]]
    in_subgraphs: dict[str, int]
    layers: tuple[Layer, ...]
    weights_bytes: dict[str, int]
    peak: Peak | None
    attentions: int
    unfused: tuple[str, ...]
    spec: IOSpec | None
    session_options: Json
    runtime: str | None
    refused: str

    @property
    def macs(self) -> int | None:
        """Of all that multiplies; None where some are not known, as those are not that a subgraph may repeat."""
        counted = [layer.macs for layer in self.layers if layer.macs is not None]
        unknown = UNCOUNTED & self.operators.keys() | (UNCOUNTED | OPERANDS.keys()) & self.in_subgraphs.keys()
        return sum(counted) if len(counted) == len(self.layers) and not unknown else None

    @property
    def batch(self) -> int:
        """How many images all numbers are of: as many as the file takes at once, one where it leaves that open."""
        size = self.inputs[0].shape[0] if self.inputs and self.inputs[0].shape else None
        return size if isinstance(size, int) else 1

    @property
    def extent(self) -> str:
        """What all numbers are of, in words."""
        return "one image" if self.batch == 1 else f"one batch of {self.batch}, as the file fixes it"

    @property
    def is_quantized(self) -> bool:
        """Whether any layer is."""
        return any(layer.product.is_quantized for layer in self.layers)

    @property
    def stays_float(self) -> dict[str, list[Layer]]:
        """The layers that are not quantized (or would not be, in a float graph), by the reason."""
        found: dict[str, list[Layer]] = {}
        for layer in self.layers:
            if layer.why_float:
                found.setdefault(layer.why_float, []).append(layer)
        return found

    def to_json(self) -> Json:
        """All of it."""
        return {
            "path": str(self.path),
            "opset": self.opset,
            "inputs": [asdict(one) for one in self.inputs],
            "outputs": [asdict(one) for one in self.outputs],
            "operators": self.operators,
            "in_subgraphs": self.in_subgraphs,
            "batch": self.batch,
            "macs": self.macs,
            "layers": [_flat(asdict(one)) for one in self.layers],
            "weights_bytes": self.weights_bytes,
            "peak_activations": asdict(self.peak) if self.peak is not None else None,
            "attentions": self.attentions,
            "unfused_attentions": list(self.unfused) if self.runtime is not None else None,
            "iospec": self.spec.model_dump(mode="json") if self.spec is not None else None,
            "session_options": self.session_options,
            "runtime": self.runtime,
            "refused": self.refused or None,
        }


def inspect_onnx(path: Path) -> Inspected:
    """Read a file, count what is in it, and ask ONNX Runtime what it makes of it.

    Shapes, MACs and memory are those of one image, or of one batch where the file fixes how many it takes.

    Raises:
        ArtifactError: it is no valid ONNX file.
    """
    model = read_onnx(path)
    options = session_options_of(model, path)
    # The graph is optimised with its batch size open where it is: fusions depend on it.
    asked_of, graph = graph_of(model, path), graph_of(for_one_image(model), path)
    made, refused = optimized_or_refused(asked_of, options)
    found = products(graph, made.got if made else {})
    ran_as = made.ran_as if made else {}
    nodes = graph.of_type(*OPERANDS)
    return Inspected(
        path=path,
        opset=opset_of(model),
        inputs=tuple(map(_tensor, inputs_of(model))),
        outputs=tuple(map(_tensor, model.graph.output)),
        operators=_operators(graph),
        in_subgraphs=_in_subgraphs(graph),
        layers=tuple(_layer(node, one, graph, ran_as) for node, one in zip(nodes, found, strict=True)),
        weights_bytes=weights_bytes(graph),
        peak=peak_activations(graph),
        attentions=len(graph.attentions),
        unfused=made.unfused if made else (),
        spec=written_iospec(model, path),
        session_options=options,
        runtime=made.runtime if made else None,
        refused=refused,
    )


def _layer(node: NodeProto, product: Product, graph: Graph, ran_as: Mapping[str, str]) -> Layer:
    first, second = (node.input[place] for place in OPERANDS[node.op_type])
    return Layer(
        product=product,
        operands=(graph.shape(first), graph.shape(second)),
        output=graph.shape(node.output[0]),
        macs=macs(node, graph),
        ran_as=ran_as.get(product.node, ""),
        why_float="" if product.is_quantized else _why_float(node, graph),
    )


def _why_float(node: NodeProto, graph: Graph) -> str:
    operands = node.input[:2]
    if not any(map(graph.is_weight, operands)):
        return "a product of two activations"
    ends = [end for end in map(graph.pair_end, operands) if end is not None]
    if any(graph.is_weight(end.input[0]) for end in ends):
        return "its weights are quantized, what they meet is not"
    if graph.quantized_precision is None:
        return why_float(node, graph.weight_shapes, DIALECTS[TENSORRT.name])
    # int8 for which runtime, the graph does not say
    dialect = BESIDE_INT8.get(graph.quantized_precision, DIALECTS[ONNXRUNTIME.name])
    return why_float(node, graph.weight_shapes, dialect) or "its quantizer left it float"


def _text(shape: Shape) -> str:
    return "?" if shape is None else "×".join("?" if size is None else str(size) for size in shape) or "1"


def _flat(layer: Json) -> Json:
    return {**layer.pop("product"), **layer}


def _operators(graph: Graph) -> dict[str, dict[str, int]]:
    counted: dict[str, Counter[str]] = {}
    for node in graph.nodes:
        kind = asked(node, graph) if node.op_type in OPERANDS else short_type_name(graph.element_type(node.output[0]))
        counted.setdefault(node.op_type, Counter())[kind] += 1
    by_count = sorted(counted.items(), key=lambda one: (-one[1].total(), one[0]))
    return {operator: dict(types.most_common()) for operator, types in by_count}


def _in_subgraphs(graph: Graph) -> dict[str, int]:
    inner = operator_counts(graph.model) - Counter(node.op_type for node in graph.nodes)
    return dict(inner.most_common())


def _tensor(value: ValueInfoProto) -> Tensor:
    tensor = value.type.tensor_type
    sizes = (size.dim_value if size.HasField("dim_value") else size.dim_param or "?" for size in tensor.shape.dim)
    return Tensor(value.name, short_type_name(tensor.elem_type), tuple(sizes))
