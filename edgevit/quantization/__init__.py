"""INT8 by Q/DQ nodes in the ONNX graph: calibration, and a writer with a dialect for each runtime."""

from edgevit.quantization.calibration import Calibrator, activation_ranges
from edgevit.quantization.ptq import Quantized, quantized_onnx

__all__ = ["Calibrator", "Quantized", "activation_ranges", "quantized_onnx"]
