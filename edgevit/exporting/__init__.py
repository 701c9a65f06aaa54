"""Checkpoint → ONNX."""

from edgevit.exporting.layers import tensor_ranges
from edgevit.exporting.normalization import with_normalization
from edgevit.exporting.onnx import Exported, onnx_from_module, re_parameterised

__all__ = [
    "Exported",
    "onnx_from_module",
    "re_parameterised",
    "tensor_ranges",
    "with_normalization",
]
