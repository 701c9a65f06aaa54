"""Where the Python interface keeps results: a temporary store, removed when the process ends."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from multiprocessing.util import Finalize
from pathlib import Path
from threading import Lock

from edgevit.actions.single_stage import SingleStages
from edgevit.context import Context
from edgevit.progress import progress_for
from edgevit.store import Store


class _Folders:
    """The temporary folder of this process. A forked process has a folder of its own."""

    def __init__(self) -> None:
        self._lock, self._by_process = Lock(), dict[int, Path]()

    def of_this_process(self) -> Path:
        with self._lock:
            process = os.getpid()
            if process not in self._by_process:
                folder = self._by_process[process] = Path(tempfile.mkdtemp(prefix="edgevit-"))
                # runs in this process alone, and in processes of multiprocessing too, which skip atexit
                Finalize(None, shutil.rmtree, (folder, True), exitpriority=0)
            return self._by_process[process]

    def renew_lock(self) -> None:
        """Another thread may have held the lock when this process was forked."""
        self._lock = Lock()


_folders = _Folders()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_folders.renew_lock)


def stages() -> SingleStages:
    """Single stages in this process's store. Progress and notes go to stderr."""
    return SingleStages(Store(_folders.of_this_process() / "store"), Context(progress=progress_for(sys.stderr)))


def new_folder(name: str) -> Path:
    """A new folder of this process, for files that are no result of a stage."""
    return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=_folders.of_this_process()))
