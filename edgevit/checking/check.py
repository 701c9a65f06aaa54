"""One ONNX file before one runtime: what would be refused, what would run, and in which precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from onnx import ModelProto

from edgevit.artifacts import Json
from edgevit.checking.nvidia import Answer, BuilderDied, ask
from edgevit.checking.older_parsers import Verdict, verdicts
from edgevit.checking.onnxruntime import Optimized, mend, optimized_or_refused
from edgevit.checking.precision import Product, got_in_plan, precisions, products, unfused_attentions
from edgevit.checking.rules import Diagnostic, static_shapes, tensorrt_diagnostics
from edgevit.errors import ArtifactError, MissingDependency, TargetError
from edgevit.graphs.files import PROTOBUF_LIMIT_BYTES, read_onnx
from edgevit.graphs.graph import Graph
from edgevit.graphs.guard import graph_tool
from edgevit.graphs.metadata import session_options_of


@dataclass(frozen=True)
class Checked:
    """What was found out about a file for TensorRT.

    Attributes:
        diagnostics: places where the graph breaks a rule.
        older: what parsers of older boards would say.
        answer: NVIDIA's; None where it could not be asked, and then `not_asked` says why.
        products: what each product asked for and got; empty where nothing was built.
        attentions, unfused: how many there are, and the Softmax or Attention nodes of those that are several kernels.
    """

    path: Path
    diagnostics: tuple[Diagnostic, ...]
    older: tuple[Verdict, ...]
    answer: Answer | None
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
        """Whether it would be taken and run as it asks to; by the rules alone where NVIDIA could not be asked."""
        legal = not any(one.level == "error" for one in self.diagnostics)
        if self.answer is None:
            return legal
        return legal and self.answer.built and bool(self.answer.kernels) and not self.fell_back

    def to_json(self) -> Json:
        """All of it, the kernels too."""
        built = self.answer is not None and self.answer.built
        return {
            "path": str(self.path),
            "ok": self.ok,
            "diagnostics": [asdict(one) for one in self.diagnostics],
            "older_parsers": [{**asdict(one), "taken": one.taken} for one in self.older],
            "nvidia": asdict(self.answer) if self.answer is not None else None,
            "not_asked": self.not_asked or None,
            "kernels": len(self.answer.kernels) if self.answer is not None and built else None,
            "bytes_moved": self.bytes_moved if built else None,
            "products": [asdict(one) for one in self.products],
            "fell_back": [one.node for one in self.fell_back],
            "attentions": self.attentions,
            "unfused_attentions": list(self.unfused),
        }

    def summary(self) -> Json:
        """What of it belongs in a report or beside other models."""
        answer = self.answer
        built = answer is not None and answer.built
        refused = answer.refused if answer is not None else ()
        return {
            "ok": self.ok,
            "builder": answer.builder if answer is not None else None,
            "not_asked": self.not_asked or None,
            "built": answer.built if answer is not None else None,
            "refused": [" ".join(filter(None, (one.operator, one.node, one.reason))) for one in refused],
            "kernels": len(answer.kernels) if answer is not None and built else None,
            "bytes_moved": self.bytes_moved if built else None,
            "products": {" ".join(key): count for key, count in precisions(self.products).items()},
            "quantized_asked": sum(one.is_quantized for one in self.products),
            "quantized_got": sum(one.is_quantized and one.got == one.asked for one in self.products),
            "fell_back": [one.node for one in self.fell_back],
            "attentions": self.attentions,
            "attentions_fused": self.attentions - len(self.unfused) if built else None,
            "unfused": list(self.unfused),
            "diagnostics": sorted({f"{one.level} {one.rule}" for one in self.diagnostics}),
            "older_parsers": {f"{one.parser.version}, {one.parser.boards}": one.said for one in self.older},
        }

    @property
    def bytes_moved(self) -> int:
        """What all kernels read and write for one image, or one batch as the file fixes it, weights included."""
        return sum(kernel.bytes_moved for kernel in self.answer.kernels) if self.answer is not None else 0


@dataclass(frozen=True)
class CheckedHere:
    """What was found out about a file for ONNX Runtime on this machine's CPU.

    Attributes:
        optimized: None where it cannot load the file, and then `refused` says why.
    """

    path: Path
    optimized: Optimized | None
    refused: str
    products: tuple[Product, ...]
    attentions: int

    @property
    def fell_back(self) -> dict[Product, str]:
        """Products that run in more bits than they asked for, and what mends it."""
        if self.optimized is None:
            return {}
        ran_as = self.optimized.ran_as
        return {one: mend(one, ran_as[one.node]) for one in self.products if one.fell_back}

    @property
    def ok(self) -> bool:
        """Whether it is loaded and runs as it asks to."""
        return self.optimized is not None and not self.fell_back

    def to_json(self) -> Json:
        """All of it but the optimised graph."""
        found = self.optimized
        return {
            "path": str(self.path),
            "ok": self.ok,
            "runtime": found.runtime if found is not None else None,
            "refused": self.refused or None,
            "products": [{**asdict(one), "ran_as": found.ran_as.get(one.node)} for one in self.products if found],
            "fell_back": [{"node": one.node, "next": next_step} for one, next_step in self.fell_back.items()],
            "attentions": self.attentions,
            "unfused_attentions": list(found.unfused) if found is not None else None,
        }


def check_onnx(path: Path) -> Checked:
    """Hold a file against TensorRT's rules, older parsers' tables, and NVIDIA's builder where it can be asked.

    Raises:
        ArtifactError: it is no valid ONNX file, or too large to be built from one.
        BuilderDied: NVIDIA's builder was ended before it answered.
    """
    graph = graph_of(read_onnx(path), path)
    diagnostics = tuple(tensorrt_diagnostics(graph))
    answer, not_asked = _answer(graph, diagnostics)
    kernels = answer.kernels if answer is not None else ()
    return Checked(
        path=path,
        diagnostics=diagnostics,
        older=tuple(verdicts(graph)),
        answer=answer,
        not_asked=not_asked,
        products=tuple(products(graph, got_in_plan(graph, kernels))) if kernels else (),
        attentions=len(graph.attentions),
        unfused=tuple(unfused_attentions(graph, kernels)) if kernels else (),
    )


def _answer(graph: Graph, diagnostics: Sequence[Diagnostic]) -> tuple[Answer | None, str]:
    """NVIDIA's answer, or why there is none."""
    for one in diagnostics:
        if one.rule == static_shapes.__name__:
            return None, f"{one.what}, and NVIDIA's builder can only be asked about fixed ones"
    try:
        return ask(graph.model), ""
    except BuilderDied:
        raise
    except (MissingDependency, TargetError) as error:
        return None, str(error)


def check_onnx_here(path: Path) -> CheckedHere:
    """Hold what a file asks for against the graph that ONNX Runtime makes of it, with the session options in it.

    Raises:
        ArtifactError: it is no valid ONNX file.
    """
    model = read_onnx(path)
    graph, options = graph_of(model, path), session_options_of(model, path)
    made, refused = optimized_or_refused(graph, options)
    return CheckedHere(path, made, refused, tuple(products(graph, made.got if made else {})), len(graph.attentions))


def graph_of(model: ModelProto, path: Path) -> Graph:
    """The graph of a model read from a file.

    Raises:
        ArtifactError: it is no valid graph, or too large to be handed on as one file.
    """
    if (size := model.ByteSize()) > PROTOBUF_LIMIT_BYTES:
        raise ArtifactError(
            "the model is too large to be checked", where=path, got=f"{size} bytes", expected=PROTOBUF_LIMIT_BYTES
        )
    with graph_tool("this is no valid graph", path):
        return Graph(model)
