"""An ONNX graph in 16-bit floats."""

from __future__ import annotations

import onnx
import onnx.checker
import onnx.shape_inference
from onnx import ModelProto
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.transformers.float16 import convert_float_to_float16

from edgevit.errors import ArtifactError, first_line
from edgevit.runtimes.graph_walk import sort_nodes


def with_float16(model: ModelProto, where: object) -> ModelProto:
    """The same graph whose inner floats have 16 bits, weights and scales too; its inputs and outputs keep 32.

    Operators that have no 16-bit form in ONNX Runtime stay in 32 between casts.

    Args:
        where: what errors name.

    Raises:
        ArtifactError: the converter makes no valid graph of it.
    """
    try:
        converted = ONNXModel(convert_float_to_float16(model, keep_io_types=True))
        _drop_repeated(converted.model)
        del converted.model.graph.value_info[:]  # the converter leaves wrong types in it
        sort_nodes(converted.model)
        onnx.checker.check_model(converted.model, full_check=True)
    except (ValueError, AssertionError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ArtifactError(
            "the graph cannot be written in float16",
            where=where,
            got=first_line(error),
            next="leave it in float32",
        ) from error
    half: ModelProto = converted.model
    return half


def _drop_repeated(model: ModelProto) -> None:
    """The converter writes a cast anew for each reader that wants 32 bits, all with the same output."""
    by_outputs = {tuple(node.output): node for node in model.graph.node}
    kept = list(by_outputs.values())
    del model.graph.node[:]
    model.graph.node.extend(kept)
