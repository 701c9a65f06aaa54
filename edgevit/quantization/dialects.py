"""Where each runtime wants Q/DQ nodes, and of which types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from onnxruntime.quantization import QuantType

from edgevit.artifacts import Json


@dataclass(frozen=True)
class Dialect:
    """How one runtime reads a quantized graph.

    Attributes:
        activations: integer type of activations; weights are int8, symmetric, one scale a channel.
        operators: operator types that are quantized where one input is a weight. Products of two activations
            (attention) stay float.
        float_outputs: operator types whose outputs get no Q/DQ pair.
        writer_options: further options of onnxruntime's Q/DQ writer.
        session_options: what the runtime must be told to read the graph as it was meant.
    """

    activations: Any
    operators: tuple[str, ...]
    float_outputs: tuple[str, ...]
    writer_options: Json
    session_options: Json


DIALECTS = {
    "onnxruntime": Dialect(
        activations=QuantType.QUInt8,
        operators=("Conv", "MatMul", "Gemm"),
        float_outputs=("MatMul", "Gemm"),
        writer_options={"WeightSymmetric": True, "ActivationSymmetric": False},
        session_options={"disabled_optimizers": ["MatMulAddFusion"]},
    )
}
