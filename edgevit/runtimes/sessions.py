"""ONNX files, opened in the runtime that they were written for. A runtime is imported when it is first used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx

from edgevit.artifacts import Artifact, IOSpec
from edgevit.configs.runtimes import RUNTIMES
from edgevit.errors import TargetError
from edgevit.graphs.files import onnx_file
from edgevit.graphs.float16_rounding import has_float16, rounded_to_float16
from edgevit.model_file import AS_WRITTEN, RuntimeOptions
from edgevit.runtimes.base import HostSession, SessionOptions, receipt, runtime_of


def file_session(
    path: Path, spec: IOSpec, options: RuntimeOptions, threads: int, conditions: Mapping[str, Any] | None = None
) -> HostSession:
    """Load an ONNX file, or an engine made from one, in the runtime that its options name."""
    runtime = RUNTIMES[options.runtime]
    session_of: Callable[..., HostSession] = import_module(runtime.module).FileSession
    return session_of(path, spec, options, threads, conditions)


def session_as_declared(path: Path, spec: IOSpec, options: RuntimeOptions, threads: int) -> HostSession:
    """Load an ONNX file to judge its outputs: tensors declared as float16 are rounded to float16, on any CPU.

    The file must also load in its own runtime. With float16 tensors the session is slower than `file_session`.
    """
    session, model = file_session(path, spec, options, threads), onnx.load(path)
    if not has_float16(model):
        return session
    with TemporaryDirectory() as folder:
        file = Path(folder) / "rounded.onnx"
        file.write_bytes(rounded_to_float16(model).SerializeToString())
        return file_session(file, spec, AS_WRITTEN, threads)


def open_session(model: Artifact, options: SessionOptions) -> HostSession:
    """Load the ONNX file of an artifact with the options in its manifest."""
    return session_opener(model, options)()


def session_opener(model: Artifact, options: SessionOptions) -> Callable[[], HostSession]:
    """A function that loads the ONNX file of an artifact anew at each call. The file's hash is checked once, here."""
    check_own_precision(options)
    conditions = receipt(model, runtime_of(model), "cpu", options)
    return partial(file_session, onnx_file(model), model.io, model.model_file.options, options.threads_here, conditions)


def check_own_precision(options: SessionOptions) -> None:
    """Raise TargetError if an ONNX file is to run in another precision than its own."""
    if options.precision != "float32":
        raise TargetError(
            "an ONNX file runs in its own precision",
            got=f"precision: {options.precision}",
            expected="precision: float32",
            next="leave 'precision' out; it is for torch on local-gpu",
        )
