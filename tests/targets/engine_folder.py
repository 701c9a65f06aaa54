"""The folder of an engine, made without a board: the layers are those that a stand-in's trtexec tells."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from edgevit.artifacts import MANIFEST, Artifact, FileEntry, Json, Manifest, manifest_text, sha256_of_file
from edgevit.graphs.files import onnx_file
from edgevit.model_file import ModelFile, TargetInfo, TensorrtOptions
from tests.targets.standin.trtexec.inspector import layers_json
from tests.targets.standin.trtexec.options import Shapes

BOARD = TargetInfo(
    name="orin",
    runtime="tensorrt",
    versions={"tensorrt": "10.3.0", "cuda": "12.6", "jetpack": "6.2"},
    hardware={"model": "NVIDIA Jetson Orin Nano", "module": "p3767-0005"},
)
OPTIONS = {
    "stage": "compile", "id": "engine", "model": "model", "runtime": "tensorrt", "target": "orin", "max_batch": 8,
}  # fmt: skip


def engine_folder(model: Artifact, folder: Path, layers: Json | None = None, **manifest: Any) -> Artifact:
    """Write the folder of an engine of `model`. Its engine file holds no engine.

    Args:
        layers: the inspector's answer; by default the stand-in's.
        manifest: other fields of the record.
    """
    folder.mkdir()
    shutil.copyfile(onnx_file(model), folder / "model.onnx")
    (folder / "model.engine").write_bytes(b"no engine")
    (folder / "build.log").write_text("built\n")
    (folder / "layers.json").write_text(json.dumps(layers or layers_of(model)))
    files = {
        file.name: FileEntry(
            sha256=sha256_of_file(file), size=file.stat().st_size, content=file.name in ("model.engine", "layers.json")
        )
        for file in folder.iterdir()
    }
    record = ModelFile(
        name="model.engine", weight_precision="int8", options=TensorrtOptions(max_batch=8), bound_to=BOARD
    )
    fields = {
        "kind": "engine", "id": "engine", "key": "0" * 40, "digest": "1" * 40, "stage": "compile", "stage_version": 2,
        "config": OPTIONS, "files": files, "metrics": {"precision": "int8", "size_bytes": 9}, "io": model.io,
        "model_file": record, **manifest,
    }  # fmt: skip
    (folder / MANIFEST).write_text(manifest_text(Manifest.model_validate(fields)), encoding="utf-8")
    return Artifact.load(folder)


def layers_of(model: Artifact, variant: str = "good", major: int = 10) -> Json:
    """The layers of a model's engine, as a stand-in's trtexec of a major version tells them."""
    profile: tuple[Shapes, ...] = tuple({"image": (size, 3, 32, 32)} for size in (1, 1, 8))
    return layers_json(onnx_file(model).read_bytes(), profile, "detailed", major, variant, True)
