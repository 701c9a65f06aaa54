"""Checkpoint → ONNX."""

from edgevit.exporting.latency import TimedCut, fast_enough
from edgevit.exporting.layers import tensor_ranges
from edgevit.exporting.normalisation import with_normalisation
from edgevit.exporting.onnx import Exported, onnx_from_module, re_parameterised

__all__ = [
    "Exported",
    "TimedCut",
    "fast_enough",
    "onnx_from_module",
    "re_parameterised",
    "tensor_ranges",
    "with_normalisation",
]
