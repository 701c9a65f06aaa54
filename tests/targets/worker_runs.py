"""The worker in a process of its own, and small models for it."""

from __future__ import annotations

import io
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from PIL import Image

from edgevit.artifacts import Artifact, Json
from edgevit.bundling.runner import environment
from edgevit.data.preprocess import fit_to_size
from edgevit.exporting.normalization import with_normalization
from edgevit.graphs.files import artifact_from_onnx, onnx_file, write_onnx
from edgevit.model_file import json_of_options
from edgevit.profiling import MeasurePlan
from edgevit.quantization import calibrated
from edgevit.runtimes.base import SessionOptions, fixed_batch, input_batches, random_images
from edgevit.runtimes.sessions import open_session
from edgevit.targets.shipped import WORKER, WORKER_FILES
from tests.bundling.small_model import small_model

OUTPUTS: Json = {"do": "outputs", "threads": 1, "images": "images.npy", "batch_size": 8, "fixed_batch": None}
PLAN = MeasurePlan(warmup_s=0.01, duration_s=0.05, min_runs=24)


@dataclass(frozen=True)
class Ended:
    """A worker that has ended."""

    folder: Path
    status: int
    stderr: str

    @property
    def result(self) -> Json:
        assert self.status == 0, self.stderr
        result: Json = json.loads((self.folder / "result.json").read_text())
        return result

    @property
    def outputs(self) -> dict[str, NDArray[Any]]:
        content, arrays = (self.folder / "outputs.bin").read_bytes(), {}
        names = json.loads((self.folder / "request.json").read_text())["model"]["outputs"]
        for name, output in zip(names, self.result["outputs"], strict=True):
            count = math.prod(output["shape"])
            arrays[name] = np.frombuffer(content, output["type"], count).reshape(output["shape"])
            content = content[arrays[name].nbytes :]
        assert not content
        return arrays

    @property
    def error(self) -> str:
        assert self.status == 1, self.stderr
        return self.stderr.splitlines()[-1]


def run(
    folder: Path,
    request: Json,
    limit: Callable[[], None] | None = None,
    python: Sequence[str] = (sys.executable,),
    **variables: str,
) -> Ended:
    """Run the worker in a folder that holds the files of the request."""
    for name, file in WORKER_FILES.items():
        shutil.copyfile(file, folder / name)
    (folder / "request.json").write_text(json.dumps(request))
    answer = subprocess.run(
        [*python, "-B", WORKER],
        cwd=folder,
        env={**environment(), **variables},
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit,
    )
    return Ended(folder, answer.returncode, answer.stderr)


def model_in(folder: Path, model: Artifact, name: str = "model.onnx") -> Json:
    """The description of a model for the worker. The file is put into the folder."""
    shutil.copyfile(onnx_file(model), folder / name)
    return {
        "file": name,
        "runtime": "onnxruntime",
        "session_options": json_of_options(model.model_file.options),
        "input": model.io.inputs[0].name,
        "outputs": [output.name for output in model.io.outputs],
    }


def request_for(folder: Path, model: Artifact, plan: MeasurePlan | None = None, name: str = "model") -> Json:
    """The parts of a request that describe a model; with a plan, also its input."""
    described = {
        "model": model_in(folder, model, f"{name}.onnx"),
        "preprocess": model.io.preprocess.model_dump(mode="json"),
    }
    if plan is None:
        return described
    file = f"{name}.npy" if plan.boundary == "compute" else f"{name}.jpg"
    if plan.boundary == "compute":
        np.save(folder / file, random_images(model.io, plan.batch_size))
    else:
        (folder / file).write_bytes(photo())
    return {**described, "input": file}


def photo(height: int = 480, width: int = 640) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(noise(1, height, width)[0]).save(buffer, "JPEG")
    return buffer.getvalue()


def noise(count: int, height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(count).integers(0, 256, (count, height, width, 3), np.uint8)


def float_model(folder: Path) -> Artifact:
    return small_model(folder / "float")


def fixed_model(folder: Path) -> Artifact:
    return small_model(folder / "fixed", batch=3)


def int8_model(folder: Path) -> Artifact:
    source = float_model(folder)
    graph, images = onnx.load(onnx_file(source)), random_images(source.io, 8)
    quantized = calibrated(graph, lambda: [images], "minmax", "onnxruntime", 1, "test").quantized().model
    assert "QuantizeLinear" in {node.op_type for node in quantized.graph.node}
    write_onnx(quantized, folder / "int8.onnx", source.io)
    return artifact_from_onnx(folder / "int8.onnx")


def uint8_model(folder: Path) -> Artifact:
    """A model that scales and normalizes itself."""
    source = float_model(folder)
    spec = source.io.taking_uint8_images()
    write_onnx(with_normalization(onnx.load(onnx_file(source)), spec), folder / "uint8.onnx", spec)
    return artifact_from_onnx(folder / "uint8.onnx")


def outputs_there_and_here(model: Artifact, folder: Path, **there: Any) -> tuple[Ended, NDArray[Any]]:
    """What the worker gives for seven photos in batches of four, and the logits of the session here."""
    rule = model.io.preprocess.model_dump()
    fit = {name: rule[name] for name in ("height", "width", "resize", "crop_pct", "interpolation")}
    photos = list(noise(7, 60, 80))
    np.save(folder / "images.npy", [fit_to_size(image, **fit) for image in photos])
    batches = {"batch_size": 4, "fixed_batch": fixed_batch(model.io)}
    ended = run(folder, {**OUTPUTS, **batches, **request_for(folder, model)}, **there)
    session = open_session(model, SessionOptions(threads=1))
    tensors = input_batches(model.io, photos, 4)
    return ended, np.concatenate([session.infer({"image": batch})["logits"][:count] for batch, count in tensors])
