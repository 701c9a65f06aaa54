"""Turn the decoded int8 MobileNetV2 (ImageNet, TensorFlow padding) into a safetensors file for timm.

    python -m benchmarks.imagenet_mobilenetv2 imagenet_mobilenet_v2_1.0_224_int8w.npz mobilenetv2.safetensors

The .npz holds, for convolution NN, `NN.weight_q` (int8, OIHW), `NN.scale` (per output channel) and `NN.bias`, batch
norm folded in. The result fits `mobilenetv2_100` with MODEL_ARGS below, and stands in for pretrained weights where no
hub can be reached.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors.torch import save_file

MODEL = "mobilenetv2_100"
MODEL_ARGS: dict[str, Any] = {
    "pad_type": "same",
    "pretrained_cfg_overlay": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bilinear"},
}
# Blurred enlargements of 32-pixel images lose it five points.
BICUBIC_ARGS: dict[str, Any] = {
    **MODEL_ARGS,
    "pretrained_cfg_overlay": {**MODEL_ARGS["pretrained_cfg_overlay"], "interpolation": "bicubic"},
}


def main() -> None:
    source, destination = map(Path, sys.argv[1:])
    save_file(state_dict(source), destination)


def state_dict(source: Path) -> dict[str, torch.Tensor]:
    """The weights of timm's mobilenetv2_100: each convolution in order, its bias in the batch norm that follows."""
    model: Any = timm.create_model(MODEL, **MODEL_ARGS).eval()
    with np.load(source, allow_pickle=False) as arrays:
        layers = [(arrays[f"{i:02}.weight_q"] * _per_output(arrays, i), arrays[f"{i:02}.bias"]) for i in range(53)]
    convolutions = [module for module in model.modules() if isinstance(module, torch.nn.Conv2d)]
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        for convolution, norm, (weight, bias) in zip(convolutions, norms, layers[:-1], strict=True):
            convolution.weight.copy_(torch.from_numpy(weight))
            norm.bias.copy_(torch.from_numpy(bias))
            norm.weight.fill_((1 + norm.eps) ** 0.5)  # with variance 1 and mean 0 this leaves the product as it is
        weight, bias = layers[-1]
        model.classifier.weight.copy_(torch.from_numpy(weight[1:, :, 0, 0]))  # output 0 is TensorFlow's background
        model.classifier.bias.copy_(torch.from_numpy(bias[1:]))
    return {name: tensor.contiguous() for name, tensor in model.state_dict().items()}


def weights_file(source: Path, runs: Path) -> Path:
    """The safetensors file of the .npz, made in `runs` where it is not there."""
    runs.mkdir(parents=True, exist_ok=True)
    file = (runs / "imagenet_mobilenetv2.safetensors").absolute()
    if not file.is_file():
        save_file(state_dict(source), file)
    return file


def _per_output(arrays: Any, index: int) -> np.ndarray:
    return np.asarray(arrays[f"{index:02}.scale"], np.float32).reshape(-1, 1, 1, 1)


if __name__ == "__main__":
    main()
