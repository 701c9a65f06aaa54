"""compile: ONNX → the graph that the target's runtime loads, with the same outputs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgevit.artifacts import Artifact, Contents
from edgevit.configs import Compile
from edgevit.context import Context
from edgevit.errors import ArtifactError
from edgevit.graphs.files import onnx_file
from edgevit.model_file import ONNX_FILE
from edgevit.runtimes.base import carried_cost, runtime_of
from edgevit.runtimes.onnxruntime.session import OnnxruntimeSession
from edgevit.runtimes.parity import check_sessions_agree
from edgevit.targets import target_for


def run(config: Compile, inputs: Mapping[str, Artifact], context: Context, out: Path) -> Contents:
    model, file = inputs["model"], out / ONNX_FILE
    if runtime_of(model) != config.runtime:
        raise ArtifactError(
            f"{runtime_of(model)} compiles a model each time it loads it",
            where=model.id,
            got=f"runtime: {runtime_of(model)}",
            expected=f"a model that was made for {config.runtime}",
            next="leave compile out: evaluate, profile and bundle take the ONNX file",
        )
    compiled = target_for(config.target, context).compile(model, out)
    agreement = check_sessions_agree(
        OnnxruntimeSession(file, model.io, compiled.options, threads=1),
        OnnxruntimeSession(onnx_file(model), model.io, model.model_file.options, threads=1),
        precision=compiled.precision,
        where=f"{config.id}, against its ONNX file '{model.id}'",
    )
    metrics = {
        **carried_cost(model),
        "precision": compiled.precision,
        "size_bytes": file.stat().st_size,
        "runtime": config.runtime,
        "max_difference": agreement.max_difference,
    }
    return Contents(kind="engine", metrics=metrics, io=model.io, model_file=compiled)
