"""An ONNX graph in 16-bit floats."""

from __future__ import annotations

from onnx import ModelProto
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.transformers.float16 import convert_float_to_float16


def with_float16(model: ModelProto) -> ModelProto:
    """The same graph whose inner floats have 16 bits, weights and scales too; its inputs and outputs keep 32.

    Operators that have no 16-bit form in ONNX Runtime stay in 32 between casts.
    """
    converted = ONNXModel(convert_float_to_float16(model, keep_io_types=True))
    _drop_repeated(converted.model)
    converted.topological_sort()
    half: ModelProto = converted.model
    return half


def _drop_repeated(model: ModelProto) -> None:
    """The converter writes a cast anew for each reader that wants 32 bits, all with the same output."""
    by_outputs = {tuple(node.output): node for node in model.graph.node}
    kept = list(by_outputs.values())
    del model.graph.node[:]
    model.graph.node.extend(kept)
