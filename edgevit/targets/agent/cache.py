"""What is kept in the work folder: files, carried files, packages and jobs. What was not used longest goes first."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from typing import Iterator, NamedTuple

from edgevit.targets.agent.folders import CARRIED, FILES, JOBS, KEPT, PACKAGES, remove_folder, tree_bytes
from edgevit.targets.agent.job_folder import JobFolder
from edgevit.targets.agent.protocol import LARGEST_FILE, MOST_HASHES, Json, hash_of, list_in, number_in

ABANDONED_S = 86_400  # after so long, a part is removed
FOLDERS = (FILES, CARRIED, PACKAGES, JOBS)
OF_FILES = (FILES, CARRIED)


class Item(NamedTuple):
    """Something that is kept, and removed as a whole. Items sort by the time of their last use."""

    used: float
    name: str
    path: str
    bytes: int
    is_part: bool

    def remove(self) -> None:
        """Remove it. Another client may remove it at the same time."""
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISDIR(os.lstat(self.path).st_mode):
                remove_folder(self.path)
            else:
                os.unlink(self.path)


def stored_bytes(work_folder: str) -> int:
    """The bytes of everything that is kept."""
    return sum(item.bytes for item in items(work_folder))


def evict(request: Json, work_folder: str) -> Json:
    """Remove what was not used for the longest time, until the rest fits the limit; and old parts.

    Args:
        request: `limit_bytes`; `keep`, the names of files, packages and jobs that stay in any case.
    """
    limit = number_in(request, "limit_bytes", LARGEST_FILE)
    kept = {hash_of(name) for name in list_in(request, "keep", MOST_HASHES)} | set(in_use(work_folder))
    found = sorted(items(work_folder))
    before = stored = sum(item.bytes for item in found)
    for item in found:
        is_old_part = item.is_part and time.time() - item.used > ABANDONED_S
        if is_old_part or (not item.is_part and stored > limit and item.name not in kept):
            item.remove()
            stored -= item.bytes
    return {"removed_bytes": before - stored, "stored_bytes": stored}


def clean(work_folder: str) -> Json:
    """Remove everything but running jobs. Folders go too, if nothing else is in them."""
    removed, used = 0, set(in_use(work_folder))
    for item in items(work_folder):
        if item.name not in used:
            item.remove()
            removed += item.bytes
    for folder in (*(os.path.join(work_folder, name) for name in FOLDERS), work_folder):
        with contextlib.suppress(OSError):
            os.rmdir(folder)
    return {"removed_bytes": removed}


def items(work_folder: str) -> Iterator[Item]:
    """Everything that is kept: plain files, and the folders of packages and jobs. Nothing of others."""
    for kind in FOLDERS:
        folder = os.path.join(work_folder, kind)
        with contextlib.suppress(OSError):
            for name in os.listdir(folder):
                path, matched = os.path.join(folder, name), KEPT.match(name)
                with contextlib.suppress(OSError):
                    info = os.lstat(path)
                    is_kind = stat.S_ISREG(info.st_mode) if kind in OF_FILES else stat.S_ISDIR(info.st_mode)
                    if matched and is_kind:
                        size = info.st_size if kind in OF_FILES else tree_bytes(path)
                        yield Item(info.st_mtime, matched[1], path, size, matched[2] is not None)


def in_use(work_folder: str) -> Iterator[str]:
    """The names of running jobs, and of the packages and files that they use."""
    with contextlib.suppress(OSError):
        for name in os.listdir(os.path.join(work_folder, JOBS)):
            job = JobFolder(work_folder, name)
            if KEPT.match(name) and job.is_running():
                yield name
                yield from job.uses()
