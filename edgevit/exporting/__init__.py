"""Checkpoint → ONNX."""

from edgevit.exporting.onnx import Exported, onnx_from_module

__all__ = ["Exported", "onnx_from_module"]
