"""What ONNX Runtime makes of a graph on this machine's CPU: the graph as it optimises it, held against the file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
from onnx import ModelProto, NodeProto

from edgevit.artifacts import Json
from edgevit.checking.precision import Product
from edgevit.configs.runtimes import ONNXRUNTIME
from edgevit.errors import ArtifactError
from edgevit.graphs.graph import INTEGER_PRODUCTS, OPERANDS, Graph
from edgevit.graphs.guard import graph_tool
from edgevit.graphs.types import short_type_name
from edgevit.provenance import version_of
from edgevit.runtimes.base import file_runtime
from edgevit.runtimes.onnxruntime.engine import OWN_LAYOUT
from edgevit.runtimes.onnxruntime.session import inference_session

# Every fusion keeps the name of the node that it starts from, with something before or behind it.
_MARK = re.compile(r"edgevit_(\d+)_")


@dataclass(frozen=True)
class Optimized:
    """A graph as it was optimised.

    Attributes:
        runtime: ONNX Runtime, with its version.
        ran_as: the operator that computes each product, by the product's name; without those folded into constants.
        got: the type that each product is computed in, likewise.
        unfused: the Softmax nodes of attentions that are several operators.
    """

    runtime: str
    graph: Graph
    ran_as: dict[str, str]
    got: dict[str, str]
    unfused: tuple[str, ...]


def optimized(graph: Graph, session_options: Json) -> Optimized:
    """Load a graph as a session would, and find its products in what was made of it.

    Raises:
        ArtifactError: ONNX Runtime cannot load it, or it was made for another runtime.
    """
    if file_runtime(session_options) != ONNXRUNTIME.name:
        raise ArtifactError(f"it was made for {file_runtime(session_options)}, not for {ONNXRUNTIME.title}")
    with TemporaryDirectory() as folder:
        file, written = Path(folder) / "model.onnx", Path(folder) / "optimized.onnx"
        file.write_bytes(_marked(graph.model).SerializeToString())
        inference_session(file, session_options, threads=1, optimized_path=written)
        with graph_tool("the graph that ONNX Runtime makes of it cannot be read", "optimized.onnx"):
            made = Graph(onnx.load(written))
    ran_as, got = {}, {}
    for index, node, precision in _found(made):
        name = graph.nodes[index].name
        ran_as[name], got[name] = node.op_type, precision
    if any(node.domain == OWN_LAYOUT for node in made.nodes):
        # What runs in its own layout, for float convolutions alone, is named after nothing.
        renamed = [node.name for node in graph.of_type("Conv") if node.name not in got]
        ran_as |= dict.fromkeys(renamed, "Conv")
        got |= dict.fromkeys(renamed, "float")
    softmaxes = {index for node in made.nodes if node.op_type == "Softmax" for index in _marks(node)}
    attending = {node.name for node in graph.attentions}
    unfused = [graph.nodes[index].name for index in sorted(softmaxes) if graph.nodes[index].name in attending]
    return Optimized(f"{ONNXRUNTIME.title} {version_of(ONNXRUNTIME.package)}", made, ran_as, got, tuple(unfused))


def optimized_or_refused(graph: Graph, session_options: Json) -> tuple[Optimized | None, str]:
    """What ONNX Runtime makes of a graph; or None, and why it refuses it, with what mends that."""
    try:
        return optimized(graph, session_options), ""
    except ArtifactError as error:
        return None, "; ".join(filter(None, (error.what, error.next)))


def mend(product: Product, ran_as: str) -> str:
    """What makes ONNX Runtime compute a product in the precision that it asks for."""
    if product.asked in ("fp8", "int4"):
        return "quantize the float model in int8: there are no kernels of it for this CPU"
    if product.asked == "half":
        return "export it in float32: there are no float16 kernels for this CPU"
    if product.operator == "MatMul" and ran_as.endswith("Gemm"):
        return "give it the session option disabled_optimizers: [MatMulAddFusion]"
    if product.operator == "Conv":
        return "a Q/DQ pair behind the convolution too, as quantize writes it"
    return "quantize the float model with --runtime onnxruntime"


def _marked(model: ModelProto) -> ModelProto:
    marked = ModelProto()
    marked.CopyFrom(model)
    for index, node in enumerate(marked.graph.node):
        node.name = f"edgevit_{index}_"
    return marked


def _found(made: Graph) -> Iterator[tuple[int, NodeProto, str]]:
    """For each operator that multiplies: the place of the node that it was made of, itself, and its precision."""
    for node in made.of_type(*OPERANDS):
        types = filter(None, map(made.element_type, (*node.input, *node.output)))
        precision = "int8" if node.op_type in INTEGER_PRODUCTS else short_type_name(next(types, None))
        for index in _marks(node):
            yield index, node, precision


def _marks(node: NodeProto) -> list[int]:
    return [int(index) for index in _MARK.findall(node.name)]
