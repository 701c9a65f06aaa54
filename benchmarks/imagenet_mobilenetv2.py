"""Turn the decoded int8 MobileNetV2 (ImageNet, TensorFlow padding) into a safetensors file for timm.

    python -m benchmarks.imagenet_mobilenetv2 imagenet_mobilenet_v2_1.0_224_int8w.npz mobilenetv2.safetensors

The .npz holds, for convolution NN, `NN.weight_q` (int8, OIHW), `NN.scale` (per output channel) and `NN.bias`, batch
norm folded in. The result fits `mobilenetv2_100` with MODEL_ARGS below, and stands in for pretrained weights where no
hub can be reached. A training goes on from `weights_to_train`.
"""

from __future__ import annotations

import os
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

MEASURED_IMAGES, MEASURED_SIDE = 512, 96  # for the statistics of batch norm, which a training then moves


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


@torch.no_grad()
def with_batch_norm_statistics(weights: dict[str, torch.Tensor], images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Weights for a training: batch norm has measured statistics, and the answers in inference stay.

    Batch norm folded into its convolution has mean 0 and variance 1. A training normalizes by the mean and the variance
    of the layer's inputs, and the network loses what it knew. Here both are measured on normalized images,
    (n, 3, H, W). Scale and offset of the layer make up for them.
    """
    model: Any = timm.create_model(MODEL, **MODEL_ARGS).eval()
    model.load_state_dict(weights)

    def measure(norm: Any, inputs: tuple[torch.Tensor]) -> None:
        variance, mean = torch.var_mean(inputs[0], (0, 2, 3))
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        norm.bias.add_(scale * (mean - norm.running_mean))
        norm.weight.copy_(scale * (variance + norm.eps).sqrt())
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)

    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_pre_hook(measure)
    model(images)
    return {name: tensor.contiguous() for name, tensor in model.state_dict().items()}


def weights_file(source: Path, runs: Path) -> Path:
    """The safetensors file of the .npz, made in `runs` where it is not there."""
    runs.mkdir(parents=True, exist_ok=True)
    file = (runs / "imagenet_mobilenetv2.safetensors").absolute()
    if not file.is_file():
        _saved(state_dict(source), file)
    return file


def weights_to_train(source: Path, images: Path, runs: Path) -> Path:
    """The safetensors file with statistics of the first of these images, enlarged; made where it is not there.

    Args:
        images: an .npz file that holds `images`, uint8 (n, H, W, 3).
    """
    file = (runs / f"imagenet_mobilenetv2_{images.stem}.safetensors").absolute()
    if not file.is_file():
        runs.mkdir(parents=True, exist_ok=True)
        with np.load(images, allow_pickle=False) as arrays:
            pixels = torch.from_numpy(arrays["images"][:MEASURED_IMAGES])
        normalized = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
        enlarged = torch.nn.functional.interpolate(normalized, (MEASURED_SIDE, MEASURED_SIDE), mode="bicubic")
        _saved(with_batch_norm_statistics(state_dict(source), enlarged), file)
    return file


def _saved(tensors: dict[str, torch.Tensor], file: Path) -> None:
    """Save tensors so that another process sees the whole file or none."""
    part = file.with_suffix(f".{os.getpid()}")
    save_file(tensors, part)
    part.replace(file)


def _per_output(arrays: Any, index: int) -> np.ndarray:
    return np.asarray(arrays[f"{index:02}.scale"], np.float32).reshape(-1, 1, 1, 1)


if __name__ == "__main__":
    main()
