"""The files that run a model on a target: the worker and the files that it imports."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]

WORKER = "worker.py"
WORKER_FILES: Mapping[str, Path] = {  # by their names in the folder of a job
    WORKER: _PACKAGE / "targets" / "agent" / "worker.py",
    "loop.py": _PACKAGE / "profiling" / "loop.py",
    "conditions.py": _PACKAGE / "profiling" / "conditions.py",
    "loading.py": _PACKAGE / "runtimes" / "loading.py",
    "preprocess.py": _PACKAGE / "data" / "preprocess.py",
}
