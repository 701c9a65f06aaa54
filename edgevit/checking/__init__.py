"""What is in an ONNX file, would a runtime take it, and what would it make of it: by rules, tables and the runtimes."""

from edgevit.checking.check import Checked, CheckedHere, check_onnx, check_onnx_here
from edgevit.checking.inspection import Inspected, inspect_onnx

__all__ = ["Checked", "CheckedHere", "Inspected", "check_onnx", "check_onnx_here", "inspect_onnx"]
