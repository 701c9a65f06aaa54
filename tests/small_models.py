"""A tiny ViT and a tiny hybrid, taken through the stages once for each test process."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from edgevit.artifacts import Artifact, FileEntry, Manifest, sha256_of_file
from edgevit.configs import STAGES, Digits
from edgevit.context import Context
from edgevit.data import dataset_artifacts
from edgevit.pipeline import make, resolve
from edgevit.store import Store

VIT: dict[str, Any] = {
    "model": "deit_tiny_patch16_224",
    "model_args": {"patch_size": 8, "depth": 2, "embed_dim": 48, "num_heads": 3},
    "image_size": 32,
}
HYBRID: dict[str, Any] = {
    "model": "repvit_m0_9",
    "model_args": {"embed_dim": (8, 16, 24, 32), "depth": (1, 1, 1, 1)},
}


class Workbench:
    """Runs stages in a store that is gone when the process ends."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="edgevit-tests-")
        self.store = Store(Path(self._folder.name))
        self.made: dict[str, Artifact] = dict(
            dataset_artifacts(
                {
                    name: Digits.model_validate({"source": "digits", "few_shot": {"shots": shots}})
                    for name, shots in (("digits", 5), ("few", 75))
                },
                Path(),
                ["digits.support", "digits.pool", "digits.test", "few.pool"],  # 50, 851, 896 and 151 images
            )
        )

    def run(self, stage: str, name: str, context: Any = None, again: Any = False, **fields: Any) -> Artifact:
        if stage == "quantize":  # of these small models INT8 need not be faster
            fields.setdefault("placement", "all")
        config = STAGES[stage].model_validate({"stage": stage, "id": name, **fields})
        self.made[name] = make(config, resolve(config, self.made), self.store, context or Context(), again=again)
        return self.made[name]


@cache
def workbench() -> Workbench:
    return Workbench()


@cache
def checkpoint(hybrid: bool = False) -> Artifact:
    return workbench().run("load", f"checkpoint{hybrid:d}", classes_of="digits.test", **(HYBRID if hybrid else VIT))


@cache
def float_onnx(hybrid: bool = False) -> Artifact:
    return workbench().run("export", f"float{hybrid:d}", model=checkpoint(hybrid).id)


@cache
def int8_onnx(hybrid: bool = False) -> Artifact:
    return workbench().run(
        "quantize", f"int8{hybrid:d}", model=float_onnx(hybrid).id, calibration="digits.pool", calibration_images=32
    )


def int8_onnx_for_tensorrt() -> Artifact:
    """The ViT with Q/DQ as TensorRT takes it, made once."""
    made = workbench().made
    if "int8-tensorrt" not in made:
        options = {"runtime": "tensorrt", "calibration": "digits.pool", "calibration_images": 32, "min_sqnr_db": 0}
        workbench().run("quantize", "int8-tensorrt", model=float_onnx().id, **options)
    return made["int8-tensorrt"]


@cache
def engine(hybrid: bool = False) -> Artifact:
    return workbench().run("compile", f"engine{hybrid:d}", model=int8_onnx(hybrid).id)


def artifact_of(file: Path, like: Artifact, **changes: Any) -> Artifact:
    """An artifact in memory around a file that a test has made, otherwise like another."""
    entry = FileEntry(sha256=sha256_of_file(file), size=file.stat().st_size)
    fields = {**like.manifest.model_dump(), "files": {file.name: entry.model_dump()}, **changes}
    return Artifact(file.parent, Manifest.model_validate(fields))
