"""Tools of other libraries for ONNX graphs, with errors that a user can act on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import onnx.inliner
import onnx.shape_inference
import onnx.version_converter
from onnx import ModelProto

from edgevit.errors import ArtifactError, EdgevitError, first_line

ONNX_DOMAINS = ("", "ai.onnx")


@contextmanager
def graph_tool(what: str, where: object, next: str | None = None) -> Iterator[None]:
    """Answer an error of another library's tool for ONNX graphs with ArtifactError.

    Args:
        what: what the tool cannot do, one sentence.
        where: the file or stage.
        next: what mends it.

    Raises:
        ArtifactError: the tool raised an error; its first line is in `got`.
    """
    try:
        yield
    except (EdgevitError, OSError, MemoryError):
        raise
    except Exception as error:  # onnx, protobuf and onnxruntime raise errors of any class on odd graphs
        raise ArtifactError(what, where=where, got=first_line(error), next=next) from error


def with_functions_inlined(model: ModelProto, where: object) -> ModelProto:
    """The model with its functions replaced by their nodes; a model without functions as it is.

    Functions may be written for other opsets than the graph. The graph is then converted to the highest of them, since
    onnx's converter has more adapters upwards than downwards.

    Raises:
        ArtifactError: onnx cannot inline the functions.
    """
    if not model.functions:
        return model
    versions = {entry.domain: entry.version for entry in model.opset_import}
    imports = [entry for function in model.functions for entry in function.opset_import]
    converts = any(versions.get(entry.domain, entry.version) != entry.version for entry in imports)
    with graph_tool("the functions of the model cannot be inlined", where):
        if converts:
            highest = max(entry.version for entry in (*imports, *model.opset_import) if entry.domain in ONNX_DOMAINS)
            model = onnx.shape_inference.infer_shapes(_graph_in_opset(model, highest))  # the converter needs the types
        inlined: ModelProto = onnx.inliner.inline_local_functions(model, convert_version=converts)
    return inlined


def _graph_in_opset(model: ModelProto, opset: int) -> ModelProto:
    """A copy whose graph is converted to an opset of onnx, and whose functions are as they were."""
    if any(entry.version == opset for entry in model.opset_import if entry.domain in ONNX_DOMAINS):
        return model
    graph_alone = ModelProto()
    graph_alone.CopyFrom(model)
    del graph_alone.functions[:]
    converted: ModelProto = onnx.version_converter.convert_version(graph_alone, opset)
    converted.functions.extend(model.functions)
    return converted


def with_inferred_shapes(model: ModelProto) -> ModelProto:
    """The model with all types and shapes that onnx can infer; as it is where onnx can infer none.

    A runtime says what is wrong with a graph whose shapes contradict each other.
    """
    try:
        inferred: ModelProto = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception:  # noqa: BLE001 - onnx raises errors of any class on odd graphs
        return model
    return inferred
