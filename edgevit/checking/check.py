"""The check of an ONNX file for a runtime: whether it is accepted, and in which precision its products run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from onnx import ModelProto

from edgevit.artifacts import Json
from edgevit.checking.nvidia import BuilderDied, BuildResult, build
from edgevit.checking.older_parsers import ParserVerdict, parser_verdicts
from edgevit.checking.onnxruntime import NO_ROUNDING, OptimizedGraph, advice, optimized_or_refused, rounded_products
from edgevit.checking.plan import Kernel
from edgevit.checking.precision import Product, got_in_plan, precision_counts, products, unfused_attentions
from edgevit.checking.rules import Diagnostic, static_shapes, tensorrt_diagnostics
from edgevit.errors import ArtifactError, MissingDependency, TargetError
from edgevit.graphs.files import PROTOBUF_LIMIT_BYTES, read_onnx
from edgevit.graphs.graph import Graph
from edgevit.graphs.guard import graph_tool
from edgevit.graphs.metadata import runtime_options_of


@dataclass(frozen=True)
class TensorrtCheck:
    """The check of a file for TensorRT.

    Attributes:
        diagnostics: the places where the graph breaks a rule.
        older_parsers: the verdicts of the parsers of older boards.
        build_result: of NVIDIA's builder; None if it did not run.
        not_asked: why the builder did not run; "" if it did.
        products: the precision that each product asked for and got; empty if nothing was built.
        attentions: the number of attentions.
        unfused: the Softmax or Attention nodes of the attentions that are several kernels.
    """

    path: Path
    diagnostics: tuple[Diagnostic, ...]
    older_parsers: tuple[ParserVerdict, ...]
    build_result: BuildResult | None
    not_asked: str
    products: tuple[Product, ...]
    attentions: int
    unfused: tuple[str, ...]

    @property
    def fell_back(self) -> tuple[Product, ...]:
        """Products that run in more bits than they asked for."""
        return tuple(product for product in self.products if product.fell_back)

    @property
    def ok(self) -> bool:
        """Whether the file is accepted and runs in the precision it asks for; by the rules alone without a build."""
        keeps_rules = not any(diagnostic.level == "error" for diagnostic in self.diagnostics)
        if self.build_result is None:
            return keeps_rules
        return keeps_rules and self.build_result.built and bool(self.build_result.kernels) and not self.fell_back

    def to_json(self) -> Json:
        """The whole check, with the kernels."""
        kernels = self._kernels_built()
        return {
            "path": str(self.path),
            "ok": self.ok,
            "diagnostics": [asdict(diagnostic) for diagnostic in self.diagnostics],
            "older_parsers": [{**asdict(verdict), "taken": verdict.taken} for verdict in self.older_parsers],
            "nvidia": asdict(self.build_result) if self.build_result is not None else None,
            "not_asked": self.not_asked or None,
            "kernels": len(kernels) if kernels is not None else None,
            "bytes_moved": self.bytes_moved if kernels is not None else None,
            "products": [asdict(product) for product in self.products],
            "fell_back": [product.node for product in self.fell_back],
            "attentions": self.attentions,
            "unfused_attentions": list(self.unfused),
        }

    def summary(self) -> Json:
        """The metrics of the check: the figures for a report or a comparison of models."""
        result, kernels = self.build_result, self._kernels_built()
        refusals = result.refused if result is not None else ()
        quantized = [product for product in self.products if product.is_quantized]
        verdicts = {f"{verdict.parser.version}, {verdict.parser.boards}": verdict for verdict in self.older_parsers}
        return {
            "ok": self.ok,
            "builder": result.builder if result is not None else None,
            "not_asked": self.not_asked or None,
            "built": result.built if result is not None else None,
            "refused": [refusal.text for refusal in refusals],
            "kernels": len(kernels) if kernels is not None else None,
            "bytes_moved": self.bytes_moved if kernels is not None else None,
            "products": {" ".join(key): count for key, count in precision_counts(self.products).items()},
            "quantized_asked": len(quantized),
            "quantized_got": sum(product.got == product.asked for product in quantized),
            "fell_back": [product.node for product in self.fell_back],
            "attentions": self.attentions,
            "attentions_fused": self.attentions - len(self.unfused) if kernels is not None else None,
            "unfused": list(self.unfused),
            "diagnostics": sorted({f"{diagnostic.level} {diagnostic.rule}" for diagnostic in self.diagnostics}),
            "older_parsers": {parser: verdict.text for parser, verdict in verdicts.items()},
        }

    @property
    def bytes_moved(self) -> int:
        """Bytes that all kernels read and write, weights included, for one image or one batch of a fixed size."""
        return sum(kernel.bytes_moved for kernel in self.build_result.kernels) if self.build_result is not None else 0

    def _kernels_built(self) -> tuple[Kernel, ...] | None:
        """The kernels of the build; None if nothing was built."""
        return self.build_result.kernels if self.build_result is not None and self.build_result.built else None


@dataclass(frozen=True)
class OnnxruntimeCheck:
    """The check of a file for ONNX Runtime on this machine's CPU.

    Attributes:
        optimized: None if ONNX Runtime cannot load the file.
        refused: why ONNX Runtime cannot load the file; "" if it can.
        products: the precision that each product asked for and got.
        attentions: the number of attentions.
        rounded: products whose float weights ONNX Runtime rounds to integers.
    """

    path: Path
    optimized: OptimizedGraph | None
    refused: str
    products: tuple[Product, ...]
    attentions: int
    rounded: tuple[Product, ...]

    @property
    def fell_back(self) -> dict[Product, str]:
        """Products that run in more bits than they asked for, each with the next step."""
        if self.optimized is None:
            return {}
        ran_as = self.optimized.ran_as
        return {product: advice(product, ran_as[product.node]) for product in self.products if product.fell_back}

    @property
    def ok(self) -> bool:
        """Whether the file loads and runs in the precision it asks for."""
        return self.optimized is not None and not self.fell_back and not self.rounded

    def to_json(self) -> Json:
        """The whole check without the optimized graph."""
        optimized = self.optimized
        ran_as = optimized.ran_as if optimized is not None else {}
        return {
            "path": str(self.path),
            "ok": self.ok,
            "runtime": optimized.runtime if optimized is not None else None,
            "refused": self.refused or None,
            "products": [
                {**asdict(product), "ran_as": ran_as.get(product.node)} for product in self.products if optimized
            ],
            "fell_back": [{"node": product.node, "next": step} for product, step in self.fell_back.items()],
            "rounded": [{"node": product.node, "next": NO_ROUNDING} for product in self.rounded],
            "attentions": self.attentions,
            "unfused_attentions": list(optimized.unfused) if optimized is not None else None,
        }


def check_for_tensorrt(path: Path) -> TensorrtCheck:
    """Check a file against TensorRT's rules and older parsers' tables, and build it with NVIDIA's builder if possible.

    Raises:
        ArtifactError: the file is not a valid ONNX file, or too large for the builder.
        BuilderDied: NVIDIA's builder ended before it gave a result.
    """
    graph = graph_of(read_onnx(path), path)
    diagnostics = tuple(tensorrt_diagnostics(graph))
    result, not_asked = _build_result(graph, diagnostics)
    kernels = result.kernels if result is not None else ()
    return TensorrtCheck(
        path=path,
        diagnostics=diagnostics,
        older_parsers=tuple(parser_verdicts(graph)),
        build_result=result,
        not_asked=not_asked,
        products=tuple(products(graph, got_in_plan(graph, kernels))) if kernels else (),
        attentions=len(graph.attentions),
        unfused=tuple(unfused_attentions(graph, kernels)) if kernels else (),
    )


def _build_result(graph: Graph, diagnostics: Sequence[Diagnostic]) -> tuple[BuildResult | None, str]:
    """The result of NVIDIA's builder; or None, and why there is none."""
    for diagnostic in diagnostics:
        if diagnostic.rule == static_shapes.__name__:
            return None, f"{diagnostic.what}, and NVIDIA's builder needs fixed sizes here"
    try:
        return build(graph.model), ""
    except BuilderDied:
        raise
    except (MissingDependency, TargetError) as error:
        return None, str(error)


def check_for_onnxruntime(path: Path) -> OnnxruntimeCheck:
    """Compare the precisions that a file asks for with the graph that ONNX Runtime optimizes from it.

    The options in the file's metadata apply.

    Raises:
        ArtifactError: the file is not a valid ONNX file.
    """
    model = read_onnx(path)
    graph, options = graph_of(model, path), runtime_options_of(model, path)
    optimized, refused = optimized_or_refused(graph, options)
    got = optimized.got if optimized else {}
    checked = tuple(products(graph, got))
    rounded = tuple(rounded_products(graph, checked))
    return OnnxruntimeCheck(path, optimized, refused, checked, len(graph.attentions), rounded)


def graph_of(model: ModelProto, path: Path) -> Graph:
    """The graph of a model read from a file.

    Raises:
        ArtifactError: the graph is not valid, or too large for a single file.
    """
    if (size := model.ByteSize()) > PROTOBUF_LIMIT_BYTES:
        raise ArtifactError(
            "the model is too large to be checked", where=path, got=f"{size} bytes", expected=PROTOBUF_LIMIT_BYTES
        )
    with graph_tool("the graph is not valid", path):
        return Graph(model)
