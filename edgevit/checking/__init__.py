"""Checks of an ONNX file before a runtime: its contents, whether it is accepted, and in which precision it runs."""

from edgevit.checking.check import OnnxruntimeCheck, TensorrtCheck, check_for_onnxruntime, check_for_tensorrt
from edgevit.checking.inspection import Inspection, inspect_onnx

__all__ = [
    "Inspection",
    "OnnxruntimeCheck",
    "TensorrtCheck",
    "check_for_onnxruntime",
    "check_for_tensorrt",
    "inspect_onnx",
]
