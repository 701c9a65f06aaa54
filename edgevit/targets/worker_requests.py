"""What the worker is asked: a model, its input, and their files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgevit.artifacts import Artifact, IOSpec, Json
from edgevit.graphs.files import copy_onnx, onnx_file
from edgevit.model_file import json_of_options
from edgevit.profiling import MeasurePlan
from edgevit.runtimes.base import encoded_photo, random_images, runtime_of

MODEL = "model.onnx"
LOADING_S = 600  # for a program to start and to load its models, on a slow machine
SECONDS_A_RUN = 60  # at most


def one_file(model: Artifact, folder: Path) -> Path:
    """The model as one file; a file with weights beside it is written anew, into the folder."""
    if len(model.content_sha256) == 1:
        return onnx_file(model)
    copy_onnx(model, folder / "whole.onnx")
    return folder / "whole.onnx"


def model_for_worker(model: Artifact, file: str) -> Json:
    """A model for the worker."""
    return {
        "file": file,
        "runtime": runtime_of(model),
        "session_options": json_of_options(model.model_file.options),
        "input": model.io.inputs[0].name,
        "outputs": [output.name for output in model.io.outputs],
    }


def side_for_worker(model: Artifact, file: str, source: str) -> Json:
    """A model with its input, for the worker."""
    return {
        "model": model_for_worker(model, file),
        "preprocess": model.io.preprocess.model_dump(mode="json"),
        "input": source,
    }


def input_file(spec: IOSpec, plan: MeasurePlan, folder: Path) -> Path:
    """The input of a timing, as a file: a tensor of seeded random images, or a photo."""
    if plan.boundary == "end_to_end":
        file = folder / "photo.jpg"
        file.write_bytes(encoded_photo())
    else:
        file = folder / "input.npy"
        np.save(file, random_images(spec, plan.batch_size))
    return file


def limit_s(plan: MeasurePlan) -> float:
    """The time after which a program that times a model is stopped."""
    return (
        LOADING_S
        + 2 * (plan.soak_s + max(plan.warmup_s, plan.most_warmup_s) + plan.duration_s)
        + SECONDS_A_RUN * plan.min_runs
    )
