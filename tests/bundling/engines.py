"""TensorRT engines for bundles: compiled by a stand-in board, and run by a stand-in of TensorRT's module."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from edgevit.artifacts import Artifact, Contents
from edgevit.configs import Compile, Export
from edgevit.model_file import ModelFile, TargetInfo, TensorrtOptions
from edgevit.store import Store
from tests.bundling.small_model import small_model

MAGIC = b"stand-in engine\n"
VERSION = "10.3.0"
BOARD = TargetInfo(
    name="orin",
    runtime="tensorrt",
    versions={"tensorrt": VERSION, "cuda": "12.6", "jetpack": "6.2"},
    hardware={"model": "NVIDIA Jetson Orin Nano", "module": "p3767-0005", "gpus": [], "sm_count": 8},
)
# In place of edgevit/runtimes/tensorrt_loading.py: this engine holds its ONNX file, and ONNX Runtime computes.
LOADING = f"""
from pathlib import Path

def in_tensorrt(model, session_options, threads):
    import onnxruntime
    content = Path(model).read_bytes()
    if not content.startswith({MAGIC!r}):
        raise RuntimeError("the engine cannot be deserialized: magicTag failed\\nmore")
    print("max_batch", session_options["max_batch"], "in the stand-in", file=__import__("sys").stderr)
    return onnxruntime.InferenceSession(content[{len(MAGIC)}:], providers=["CPUExecutionProvider"]).run
"""


def stand_in_engine(onnx: Artifact, engine: Artifact) -> bytes:
    """The engine that LOADING runs."""
    return MAGIC + (onnx.path / "model.onnx").read_bytes()


def engine_in_store(folder: Path, content: Callable[[Artifact, Artifact], bytes] = stand_in_engine) -> Artifact:
    """The small model as an engine of a recipe: its `compile` stage, after the stage that made its ONNX file.

    Args:
        content: gives the engine's bytes for the ONNX file and for an artifact with the record of the engine.
    """
    model = small_model(folder / "model")
    store = Store(folder / "store")

    def write_onnx(out: Path, work: Path) -> Contents:
        shutil.copy(model.path / "model.onnx", out / "model.onnx")
        return Contents("onnx", metrics=model.metrics, io=model.io, model_file=model.model_file)

    export = Export(stage="export", id="onnx", model="model")
    onnx = store.make(export, {}, {"stage": "export", "config": {}}, write_onnx)

    compiled = Compile(stage="compile", id="engine", model="onnx", runtime="tensorrt", target="orin", max_batch=8)
    file = ModelFile(
        name="model.engine", weight_precision="float32", options=TensorrtOptions(max_batch=8), bound_to=BOARD
    )
    manifest = onnx.manifest.model_copy(update={"model_file": file, "config": compiled.model_dump(mode="json")})

    def write_engine(out: Path, work: Path) -> Contents:
        (out / "model.engine").write_bytes(content(onnx, replace(onnx, manifest=manifest)))
        metrics = {"precision": "float32", "runtime": "tensorrt", "engine_sqnr_db": 71.5}
        return Contents("engine", metrics=metrics, io=onnx.io, model_file=file)

    return store.make(compiled, {"model": onnx}, {"stage": "compile", "config": {}}, write_engine)


def python_path(folder: Path, version: str = VERSION) -> str:
    """A folder with a module tensorrt of this version, for PYTHONPATH."""
    folder.mkdir(exist_ok=True)
    (folder / "tensorrt.py").write_text(f"__version__ = '{version}'\n")
    return str(folder)
