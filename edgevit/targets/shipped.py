"""The files that run models on a target: the worker, TensorRT's program, the program for turns, and their imports."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]

WORKER = "worker.py"
TURNS = "turns.py"
TURNS_FILE = _PACKAGE / "targets" / "agent" / "turns.py"
WORKER_FILES: Mapping[str, Path] = {  # by their names in the folder of a job
    WORKER: _PACKAGE / "targets" / "agent" / "worker.py",
    "loop.py": _PACKAGE / "profiling" / "loop.py",
    "conditions.py": _PACKAGE / "profiling" / "conditions.py",
    "loading.py": _PACKAGE / "runtimes" / "loading.py",
    "preprocess.py": _PACKAGE / "data" / "preprocess.py",
}

TENSORRT_PROGRAM = "tensorrt_program.py"
TENSORRT_FILES: Mapping[str, Path] = {
    TENSORRT_PROGRAM: _PACKAGE / "runtimes" / "tensorrt_program.py",
    "tensorrt_loading.py": _PACKAGE / "runtimes" / "tensorrt_loading.py",
}
ENGINE_WORKER_FILES: Mapping[str, Path] = {**WORKER_FILES, "tensorrt_loading.py": TENSORRT_FILES["tensorrt_loading.py"]}
