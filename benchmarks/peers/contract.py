"""What benchmarks/compression_peers.py and the quantizers that it calls agree on.

    PYTHON peers/PEER.py FLOAT OUT

FLOAT holds one float model: `model.onnx` (input `image`, float32), the timm checkpoint it was exported from
(`model.json`, `model.safetensors`) and `calibration.npy`, the images (n, 3, H, W) as they enter the model. Each method
of a peer writes one file into OUT; OUT/answer.json then says which, by the name of the method, or why there is none.
"""

from __future__ import annotations

import argparse
import json
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

Settings = dict[str, Any]
Method = Callable[[Path, Path], Settings]
"""(folder of the float model, file to write without its suffix) → what it was called with."""


def answer(methods: Mapping[str, Method], packages: Sequence[str]) -> None:
    """Run every method on the folders of the command line. A method that fails leaves its reason instead of a file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("float", type=Path)
    parser.add_argument("out", type=Path)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    outcomes = {name: _outcome(method, asked.float, asked.out / name) for name, method in methods.items()}
    versions = {package: version(package) for package in packages}
    (asked.out / "answer.json").write_text(json.dumps({"versions": versions, "methods": outcomes}, indent=1))


def calibration_images(folder: Path) -> Iterator[dict[str, np.ndarray]]:
    """The calibration images one by one, as a feed of the ONNX file."""
    for image in np.load(folder / "calibration.npy"):
        yield {"image": image[None]}


def _outcome(method: Method, folder: Path, stem: Path) -> dict[str, Any]:
    start = time.perf_counter()
    try:
        settings = method(folder, stem)
    except Exception as error:  # noqa: BLE001 - whatever a peer raises on a model is a result of the comparison
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
    file = next(path for path in (stem.with_suffix(".onnx"), stem.with_suffix(".xml")) if path.is_file())
    return {"file": file.name, "seconds": time.perf_counter() - start, "settings": settings}
