"""Quantization by Q/DQ nodes in the ONNX graph: calibration, and a writer with a dialect for each runtime."""

from edgevit.quantization.calibration import activation_ranges
from edgevit.quantization.images import ChosenImages, calibration_doubts, choose_images, image_batches, images_beside
from edgevit.quantization.ptq import CalibratedModel, Quantized, RoundedLayer, calibrated

__all__ = [
    "CalibratedModel",
    "ChosenImages",
    "Quantized",
    "RoundedLayer",
    "activation_ranges",
    "calibrated",
    "calibration_doubts",
    "choose_images",
    "image_batches",
    "images_beside",
]
