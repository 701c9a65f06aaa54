"""Would a runtime take this ONNX file, and what would it make of it: rules, older parsers, NVIDIA's own builder."""

from edgevit.checking.check import Checked, check_onnx

__all__ = ["Checked", "check_onnx"]
