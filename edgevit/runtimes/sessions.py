"""ONNX files, opened in the runtime that they were written for. A runtime is imported when it is first used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx

from edgevit.artifacts import Artifact, IOSpec, Json
from edgevit.configs.runtimes import RUNTIMES
from edgevit.errors import TargetError
from edgevit.graphs.files import onnx_file
from edgevit.graphs.float16_rounding import has_float16, rounded_to_float16
from edgevit.profiling import Comparison, MeasurePlan, interleaved
from edgevit.runtimes.base import HostSession, SessionOptions, file_runtime, receipt, runtime_of

SECONDS_EACH = 1.0


def file_session(
    path: Path, spec: IOSpec, session_options: Json, threads: int, conditions: Mapping[str, Any] | None = None
) -> HostSession:
    """Load an ONNX file, or an engine made from one, with its session options."""
    runtime = RUNTIMES[file_runtime(session_options)]
    session_of: Callable[..., HostSession] = import_module(runtime.module).FileSession
    return session_of(path, spec, session_options, threads, conditions)


def session_as_declared(path: Path, spec: IOSpec, session_options: Json, threads: int) -> HostSession:
    """Load an ONNX file to judge its outputs: tensors declared as float16 are rounded to float16, on any CPU.

    The file must also load in its own runtime. With float16 tensors the session is slower than `file_session`.
    """
    session, model = file_session(path, spec, session_options, threads), onnx.load(path)
    if not has_float16(model):
        return session
    with TemporaryDirectory() as folder:
        file = Path(folder) / "rounded.onnx"
        file.write_bytes(rounded_to_float16(model).SerializeToString())
        return file_session(file, spec, {"graph_optimization_level": "disabled"}, threads)


def open_session(model: Artifact, options: SessionOptions) -> HostSession:
    """Load the ONNX file of an artifact with the artifact's session options."""
    runtime = runtime_of(model)
    if options.precision != "float32":
        raise TargetError(
            "an ONNX file runs in its own precision",
            got=f"precision: {options.precision}",
            expected="precision: float32",
            next="leave 'precision' out; it is for torch on local-gpu",
        )
    conditions = receipt(model, runtime, "cpu", options)
    return file_session(onnx_file(model), model.io, model.manifest.session_options, options.threads, conditions)


def compare_speed(
    load_first: Callable[[], HostSession], load_second: Callable[[], HostSession], batch: int = 1
) -> Comparison:
    """The latency of a first model over that of a second, measured in turns on inputs of the same shape.

    The ratio serves to choose between models. It is no latency to quote.

    Args:
        load_first, load_second: load the model anew at each call.
    """
    plan = MeasurePlan(warmup_s=0.2, duration_s=SECONDS_EACH, min_runs=20, batch_size=batch)
    return interleaved(
        lambda: nullcontext(load_first().work(plan)), lambda: nullcontext(load_second().work(plan)), plan
    )
