"""ONNX Runtime's own quantization with its defaults; see contract.py for how it is called.

Requires: onnxruntime==1.31.1, onnx==1.23.2, sympy (for quant_pre_process)
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from contract import Settings, answer, calibration_images
from onnxruntime.quantization import CalibrationDataReader, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process


class Reader(CalibrationDataReader):
    def __init__(self, folder: Path) -> None:
        self._feeds: Iterator[dict[str, np.ndarray]] = calibration_images(folder)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def static(folder: Path, stem: Path) -> Settings:
    quantize_static(folder / "model.onnx", stem.with_suffix(".onnx"), Reader(folder))
    return {}


def static_preprocessed(folder: Path, stem: Path) -> Settings:
    quantize_static(_prepared(folder, stem), stem.with_suffix(".onnx"), Reader(folder))
    return {"quant_pre_process": True}


def dynamic(folder: Path, stem: Path) -> Settings:
    quantize_dynamic(folder / "model.onnx", stem.with_suffix(".onnx"))
    return {}


def dynamic_preprocessed(folder: Path, stem: Path) -> Settings:
    quantize_dynamic(_prepared(folder, stem), stem.with_suffix(".onnx"))
    return {"quant_pre_process": True}


def _prepared(folder: Path, stem: Path) -> Path:
    """The float graph optimised first, as ONNX Runtime's documentation advises."""
    prepared = stem.with_name(f"{stem.name}.float.onnx")
    quant_pre_process(folder / "model.onnx", prepared)
    return prepared


if __name__ == "__main__":
    methods = (static, static_preprocessed, dynamic, dynamic_preprocessed)
    answer({method.__name__: method for method in methods}, ["onnxruntime", "onnx"])
