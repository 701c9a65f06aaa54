"""Where the Python interface keeps results: a temporary store, removed when the process ends."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

from edgevit.actions.single_stage import SingleStages
from edgevit.context import Context
from edgevit.progress import progress_for
from edgevit.store import Store

_folders: dict[int, Path] = {}  # by process: a forked process has a folder of its own


def stages() -> SingleStages:
    """Single stages in this process's store. Progress and notes go to stderr."""
    return SingleStages(Store(_folder() / "store"), Context(progress=progress_for(sys.stderr)))


def new_folder(name: str) -> Path:
    """A new folder of this process, for files that are no result of a stage."""
    return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=_folder()))


def _folder() -> Path:
    process = os.getpid()
    if process not in _folders:
        _folders[process] = Path(tempfile.mkdtemp(prefix="edgevit-"))
        atexit.register(_remove, process)
    return _folders[process]


def _remove(process: int) -> None:
    if process == os.getpid():  # a forked process inherits this call
        shutil.rmtree(_folders[process], ignore_errors=True)
