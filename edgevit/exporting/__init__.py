"""Checkpoint → ONNX."""

from edgevit.exporting.layers import norms_by_output, tensor_ranges
from edgevit.exporting.normalization import with_normalization
from edgevit.exporting.onnx import Exported, onnx_from_module, reparameterized

__all__ = [
    "Exported",
    "norms_by_output",
    "onnx_from_module",
    "reparameterized",
    "tensor_ranges",
    "with_normalization",
]
