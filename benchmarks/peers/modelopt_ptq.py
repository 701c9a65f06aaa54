"""NVIDIA ModelOpt: fake quantization in PyTorch exported to ONNX, and its quantizer of ONNX files.

See contract.py for how it is called. Requires: nvidia-modelopt==0.47.0, requests, torch, timm==1.0.31, safetensors;
for modelopt.onnx also onnx~=1.21.0, onnxruntime~=1.24.2 (the CPU's, in place of onnxruntime-gpu), onnxslim,
onnx-graphsurgeon, polygraphy, cppimport, lief, onnxconverter-common~=1.16.0. Without them its methods say so.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import modelopt.torch.quantization as mtq
import numpy as np
import timm
import torch
from contract import Method, Settings, answer
from safetensors.torch import load_file
from timm.utils.model import reparameterize_model

OPSET = 17  # of those that ModelOpt's exporter takes, as its documentation has it
BATCH = 8


def torch_method(config_name: str) -> Method:
    def quantize(folder: Path, stem: Path) -> Settings:
        images = torch.from_numpy(np.load(folder / "calibration.npy"))

        def calibrate(model: torch.nn.Module) -> None:
            with torch.no_grad():
                for batch in images.split(BATCH):
                    model(batch)

        quantized = mtq.quantize(float_model(folder), getattr(mtq, config_name), calibrate)
        with torch.no_grad():
            torch.onnx.export(
                quantized,
                (images[:1],),
                str(stem.with_suffix(".onnx")),
                dynamo=False,  # the only exporter that takes ModelOpt's fake quantization
                opset_version=OPSET,
                input_names=["image"],
                output_names=["logits"],
                dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
            )
        return {"config": config_name, "opset": OPSET}

    return quantize


def float_model(folder: Path) -> torch.nn.Module:
    """The checkpoint's model with its branches folded, as in model.onnx."""
    described = json.loads((folder / "model.json").read_text())
    model = timm.create_model(described["model"], num_classes=described["num_classes"], **described["model_args"])
    model.load_state_dict(load_file(folder / "model.safetensors"))
    folded: torch.nn.Module = reparameterize_model(model.eval())
    return folded


def onnx_method(calibration_method: str) -> Method:
    def quantize(folder: Path, stem: Path) -> Settings:
        from modelopt.onnx.quantization import quantize as quantize_onnx

        own = stem.with_name(f"{stem.name}.float.onnx")
        shutil.copy(folder / "model.onnx", own)  # it is written to
        options = {"calibration_method": calibration_method, "calibration_eps": ["cpu"], "high_precision_dtype": "fp32"}
        quantize_onnx(
            str(own),
            calibration_data={"image": np.load(folder / "calibration.npy")},
            output_path=str(stem.with_suffix(".onnx")),
            **options,
        )
        return options

    return quantize


if __name__ == "__main__":
    methods = {
        "torch_int8": torch_method("INT8_DEFAULT_CFG"),
        "torch_smoothquant": torch_method("INT8_SMOOTHQUANT_CFG"),
        "onnx_max": onnx_method("max"),
        "onnx_entropy": onnx_method("entropy"),
    }
    answer(methods, ["nvidia-modelopt", "torch", "timm", "onnx", "onnxruntime"])
