"""One ONNX file before one runtime: what would be refused, what would run, and in which precision."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx.checker

from edgevit.artifacts import Json
from edgevit.checking.graph import Graph
from edgevit.checking.nvidia import Answer, ask
from edgevit.checking.older_parsers import Verdict, verdicts
from edgevit.checking.precision import Product, products, unfused_attentions
from edgevit.checking.rules import Diagnostic, tensorrt_diagnostics
from edgevit.errors import ArtifactError, MissingDependency, TargetError, first_line
from edgevit.runtimes.files import PROTOBUF_LIMIT_BYTES, read_onnx


@dataclass(frozen=True)
class Checked:
    """What was found out about a file.

    Attributes:
        diagnostics: places where the graph breaks a rule.
        older: what parsers of older boards would say.
        answer: NVIDIA's; None where it could not be asked, and then `not_asked` says why.
        products: what each product asked for and got; empty where nothing was built.
        attentions, unfused: how many there are, and the Softmax nodes of those that are several kernels.
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

    @property
    def bytes_moved(self) -> int:
        """What all kernels read and write for one image, weights included."""
        return sum(kernel.bytes_moved for kernel in self.answer.kernels) if self.answer is not None else 0

    def precisions(self) -> Counter[tuple[str, str, str]]:
        """How many products of an operator asked for a precision and got one."""
        return Counter((one.operator, one.asked, one.got) for one in self.products)


def check_onnx(path: Path) -> Checked:
    """Hold a file against TensorRT's rules, older parsers' tables, and NVIDIA's builder where it can be asked.

    Raises:
        ArtifactError: it is no valid ONNX file, or too large to be built from one.
    """
    graph = _graph_of(path)
    answer, not_asked = None, ""
    try:
        answer = ask(graph.model)
    except (MissingDependency, TargetError) as error:
        not_asked = str(error)
    kernels = answer.kernels if answer is not None else ()
    return Checked(
        path=path,
        diagnostics=tuple(tensorrt_diagnostics(graph)),
        older=tuple(verdicts(graph)),
        answer=answer,
        not_asked=not_asked,
        products=tuple(products(graph, kernels)) if kernels else (),
        attentions=len(graph.attentions),
        unfused=tuple(unfused_attentions(graph, kernels)) if kernels else (),
    )


def _graph_of(path: Path) -> Graph:
    model = read_onnx(path)
    if (size := model.ByteSize()) > PROTOBUF_LIMIT_BYTES:
        raise ArtifactError(
            "the model is too large to be checked", where=path, got=f"{size} bytes", expected=PROTOBUF_LIMIT_BYTES
        )
    try:
        return Graph(model)
    except onnx.checker.ValidationError as error:
        raise ArtifactError("this is no valid graph", where=path, got=first_line(error)) from None
