"""Olive's passes of static and dynamic quantization with their defaults; see contract.py for how it is called.

Requires: olive-ai==0.13.0, onnxruntime==1.31.1, torch
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from contract import Settings, answer
from olive.data.config import DataConfig
from olive.data.registry import Registry
from olive.hardware import DEFAULT_CPU_ACCELERATOR
from olive.model import ONNXModelHandler
from olive.passes.olive_pass import create_pass_from_dict
from olive.passes.onnx.quantization import OnnxDynamicQuantization, OnnxStaticQuantization
from torch.utils.data import Dataset


class Images(Dataset):
    def __init__(self, folder: Path) -> None:
        self._images = np.load(folder / "calibration.npy")

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[dict[str, np.ndarray], int]:
        return {"image": self._images[index]}, 0


@Registry.register_dataset("calibration_images")
def calibration_images(folder: str) -> Images:
    return Images(Path(folder))


def static(folder: Path, stem: Path) -> Settings:
    data = DataConfig(
        name="calibration",
        type="DataContainer",
        load_dataset_config={"type": "calibration_images", "params": {"folder": str(folder)}},
    )
    _run(OnnxStaticQuantization, {"data_config": data}, folder, stem)
    return {}


def dynamic(folder: Path, stem: Path) -> Settings:
    _run(OnnxDynamicQuantization, {}, folder, stem)
    return {}


def _run(kind: type, config: dict[str, object], folder: Path, stem: Path) -> None:
    quantize = create_pass_from_dict(kind, config, disable_search=True, accelerator_spec=DEFAULT_CPU_ACCELERATOR)
    quantize.run(ONNXModelHandler(str(folder / "model.onnx")), str(stem.with_suffix(".onnx")))


if __name__ == "__main__":
    answer({"static": static, "dynamic": dynamic}, ["olive-ai", "onnxruntime", "onnx"])
