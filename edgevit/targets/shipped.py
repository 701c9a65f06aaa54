"""The files that run models on a target: the worker with the files that it imports, and the program for turns."""

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
