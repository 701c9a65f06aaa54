"""Tools of other libraries for ONNX graphs, with errors that say what to do."""

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
    """Turn an error of another library's tool for ONNX graphs into ArtifactError.

    Args:
        what: the failure, in one sentence.
        where: the file or stage.
        next: the next step.

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
    converts = has_functions_of_other_opsets(model)
    with graph_tool("the functions of the model cannot be inlined", where):
        if converts:
            imports = [entry for part in (model, *model.functions) for entry in part.opset_import]
            highest = max(entry.version for entry in imports if entry.domain in ONNX_DOMAINS)
            model = onnx.shape_inference.infer_shapes(_graph_in_opset(model, highest))  # the converter needs the types
        inlined: ModelProto = onnx.inliner.inline_local_functions(model, convert_version=converts)
    return inlined


def has_functions_of_other_opsets(model: ModelProto) -> bool:
    """Whether a function is written for another opset than the graph, which onnx's checker refuses."""
    versions = {entry.domain: entry.version for entry in model.opset_import}
    imports = [entry for function in model.functions for entry in function.opset_import]
    return any(versions.get(entry.domain, entry.version) != entry.version for entry in imports)


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
    """The model with all types and shapes that onnx can infer; the model itself if inference fails.

    Inference fails on contradicting shapes. The error of a runtime that loads the graph describes them.
    """
    try:
        inferred: ModelProto = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception:  # noqa: BLE001 - onnx raises errors of any class on odd graphs
        return model
    return inferred
