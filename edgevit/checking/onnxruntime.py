"""The graph that ONNX Runtime optimizes for this machine's CPU, compared with the file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
from onnx import NodeProto

from edgevit.checking.precision import Product
from edgevit.configs.runtimes import ONNXRUNTIME
from edgevit.errors import ArtifactError
from edgevit.graphs.graph import INTEGER_PRODUCTS, OPERANDS, Graph
from edgevit.graphs.guard import graph_tool
from edgevit.graphs.marks import marked, marks_in
from edgevit.graphs.types import short_type_name
from edgevit.model_file import RuntimeOptions
from edgevit.provenance import title_with_version
from edgevit.runtimes.onnxruntime.engine import OWN_LAYOUT
from edgevit.runtimes.onnxruntime.session import inference_session

NO_ROUNDING = "add WeightBiasQuantization to the session option disabled_optimizers"


@dataclass(frozen=True)
class OptimizedGraph:
    """A graph after ONNX Runtime's optimization.

    Attributes:
        runtime: ONNX Runtime, with its version.
        ran_as: the operator that computes each product, by the product's name. Products that became constants are left
            out.
        got: the type in which each product is computed, by the product's name.
        unfused: the Softmax nodes of attentions that are several operators.
    """

    runtime: str
    graph: Graph
    ran_as: dict[str, str]
    got: dict[str, str]
    unfused: tuple[str, ...]


def optimize(graph: Graph, options: RuntimeOptions) -> OptimizedGraph:
    """Load a graph as a session does, and find its products in the optimized graph.

    Raises:
        ArtifactError: ONNX Runtime cannot load the graph, or it was written for another runtime.
    """
    if options.runtime != ONNXRUNTIME.name:
        raise ArtifactError(f"it was made for {options.runtime}, not for {ONNXRUNTIME.title}")
    with TemporaryDirectory() as folder:
        file, written = Path(folder) / "model.onnx", Path(folder) / "optimized.onnx"
        file.write_bytes(marked(graph.model).SerializeToString())
        inference_session(file, options, threads=1, optimized_path=written)
        with graph_tool("the graph that ONNX Runtime optimized cannot be read", "optimized.onnx"):
            optimized = Graph(onnx.load(written))
    ran_as, got = {}, {}
    for index, node, precision in _products(optimized):
        name = graph.nodes[index].name
        ran_as[name], got[name] = node.op_type, precision
    if any(node.domain == OWN_LAYOUT for node in optimized.nodes):
        # Nodes in ONNX Runtime's own layout lose their names. They are float convolutions.
        renamed = [node.name for node in graph.of_type("Conv") if node.name not in got]
        ran_as |= dict.fromkeys(renamed, "Conv")
        got |= dict.fromkeys(renamed, "float")
    softmaxes = {index for node in optimized.nodes if node.op_type == "Softmax" for index in marks_in(node.name)}
    attending = {node.name for node in graph.attentions}
    unfused = [graph.nodes[index].name for index in sorted(softmaxes) if graph.nodes[index].name in attending]
    return OptimizedGraph(title_with_version(ONNXRUNTIME), optimized, ran_as, got, tuple(unfused))


def optimized_or_refused(graph: Graph, options: RuntimeOptions) -> tuple[OptimizedGraph | None, str]:
    """The optimized graph and ""; or None, and why ONNX Runtime refuses the graph, with the next step."""
    try:
        return optimize(graph, options), ""
    except ArtifactError as error:
        return None, "; ".join(filter(None, (error.what, error.next)))


def advice(product: Product, ran_as: str) -> str:
    """The step after which ONNX Runtime computes a product in the precision that it asks for."""
    if product.asked in ("fp8", "int4"):
        return f"quantize the float model in int8: there are no {product.asked} kernels for this CPU"
    if product.asked == "half":
        return "export it in float32: there are no float16 kernels for this CPU"
    if product.operator == "MatMul" and ran_as.endswith("Gemm"):
        return "set the session option disabled_optimizers: [MatMulAddFusion]"
    if product.operator == "Conv":
        return "add a Q/DQ pair behind the convolution too, as quantize writes it"
    return "quantize the float model with --runtime onnxruntime"


def rounded_products(graph: Graph, checked: Iterable[Product]) -> Iterator[Product]:
    """Products whose float weights ONNX Runtime rounds to integers. The weights are constants of the source graph."""
    for node, product in zip(graph.of_type(*OPERANDS), checked, strict=True):
        if product.got == "int8" and not product.is_quantized and node.input[1] in graph.constants:
            yield product


def _products(optimized: Graph) -> Iterator[tuple[int, NodeProto, str]]:
    """For each product in the optimized graph: the index of its node in the source graph, its node, its precision."""
    for node in optimized.of_type(*OPERANDS):
        types = filter(None, map(optimized.element_type, (*node.input, *node.output)))
        precision = "int8" if node.op_type in INTEGER_PRODUCTS else short_type_name(next(types, None))
        for index in marks_in(node.name):
            yield index, node, precision
