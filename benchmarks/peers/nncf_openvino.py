"""NNCF's post-training quantization of the ONNX file as OpenVINO reads it; see contract.py for how it is called.

Requires: nncf==3.4.0, openvino==2026.4.1
"""

from __future__ import annotations

from pathlib import Path

import nncf
import numpy as np
import openvino
from contract import Method, Settings, answer

MIXED = {"preset": nncf.QuantizationPreset.MIXED}
TRANSFORMER = {**MIXED, "model_type": nncf.ModelType.TRANSFORMER}


def method(**options: object) -> Method:
    def quantize(folder: Path, stem: Path) -> Settings:
        model = openvino.Core().read_model(folder / "model.onnx")
        images = [image[None] for image in np.load(folder / "calibration.npy")]
        # By default NNCF stops at 300 images: all are meant to be seen by every peer.
        quantized = nncf.quantize(model, nncf.Dataset(images), subset_size=len(images), **options)
        openvino.save_model(quantized, stem.with_suffix(".xml"), compress_to_fp16=False)
        return {"subset_size": len(images), **{name: str(value) for name, value in options.items()}}

    return quantize


if __name__ == "__main__":
    methods = {"default": method(), "mixed": method(**MIXED), "transformer": method(**TRANSFORMER)}
    answer(methods, ["nncf", "openvino"])
