"""Stages refuse images that calibrate nothing, and judge on others too where images are doubtful."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgevit.configs import Npz
from edgevit.context import Context
from edgevit.data import dataset_artifacts
from edgevit.errors import DataError
from tests.said import Said
from tests.small_models import checkpoint, float_onnx, workbench

Make = Callable[[str, NDArray[np.uint8]], str]


@pytest.fixture
def images(tmp_path: Path) -> Make:
    """Makes a data set of images (n, 8, 8), labelled 0 to 9 in turn, and gives its name."""

    def make(name: str, pixels: NDArray[np.uint8]) -> str:
        np.savez(tmp_path / f"{name}.npz", images=pixels, labels=np.arange(len(pixels)) % 10)
        config = Npz.model_validate({"source": "npz", "path": str(tmp_path / f"{name}.npz")})
        role = f"{name}.train"
        workbench().made[role] = dataset_artifacts({name: config}, tmp_path, [role])[role]
        return role

    return make


@pytest.mark.parametrize(
    "fields",
    [
        {"stage": "quantize", "model": "exported", "runtime": "onnxruntime", "calibration_images": 16},
        {"stage": "quantize", "model": "exported", "runtime": "tensorrt", "calibration_images": 16},
        {
            "stage": "qat",
            "init": "start",
            "epochs": 1,
            "streams": ({"data": "digits.support"},),
            "calibration_images": 16,
        },
        {"stage": "prune", "model": "start", "keep_macs": 0.5, "images": 16},
    ],
    ids=["quantize", "tensorrt", "qat", "prune"],
)
def test_black_images_are_refused_by_every_stage_that_measures_on_images(fields: dict[str, Any], images: Make) -> None:
    black = images("black", np.zeros((20, 8, 8), np.uint8))
    made = {"exported": float_onnx().id, "start": checkpoint().id}
    given = {key: made.get(str(value), value) for key, value in fields.items()}
    given["data" if fields["stage"] == "prune" else "calibration"] = black
    with pytest.raises(DataError, match="cannot calibrate or score a model"):
        workbench().run(str(given.pop("stage")), "refused", **given)


def test_random_images_judge_too_where_calibration_images_are_doubtful(images: Make) -> None:
    generator = np.random.default_rng(0)
    strong = generator.integers(0, 256, (40, 8, 8)).astype(np.uint8)
    noise = {}
    for name, pixels in {"strong": strong, "faint": (100 + strong * 0.3).astype(np.uint8)}.items():
        said = Said()
        asked = {"calibration": images(name, pixels), "calibration_images": 20, "min_sqnr_db": -20}
        made = workbench().run("quantize", f"on_{name}", Context(progress=said), model=float_onnx().id, **asked)
        noise[name] = made.metrics["sqnr_db"]
        doubts = [line for line in said.lines if "doubtful calibration images" in line]
        assert len(doubts) == (name == "faint")
        assert any("uses seeded random images" in line for line in said.lines) == (name == "faint")
    assert noise["faint"] < noise["strong"] - 3, "images of full contrast show that ranges were cut"
