"""Tools of other libraries for ONNX graphs, with errors that say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import onnx.inliner
import onnx.shape_inference
from onnx import ModelProto

from edgevit.errors import ArtifactError, EdgevitError, first_line


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
    """The model with its functions replaced by their nodes; the model itself if it has none.

    Raises ArtifactError if onnx cannot inline them.
    """
    if not model.functions:
        return model
    versions = {entry.domain: entry.version for entry in model.opset_import}
    imported = [entry for function in model.functions for entry in function.opset_import]
    converts = any(versions.get(entry.domain, entry.version) != entry.version for entry in imported)
    with graph_tool("the functions of the model cannot be inlined", where):
        if converts:  # conversion needs the types of the functions' inputs
            model = onnx.shape_inference.infer_shapes(model)
        inlined: ModelProto = onnx.inliner.inline_local_functions(model, convert_version=converts)
    return inlined


def with_inferred_shapes(model: ModelProto) -> ModelProto:
    """The model with all types and shapes that onnx can infer; the model itself if inference fails.

    Inference fails on contradicting shapes. The error of a runtime that loads the graph describes them.
    """
    try:
        inferred: ModelProto = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception:  # noqa: BLE001 - onnx raises errors of any class on odd graphs
        return model
    return inferred
