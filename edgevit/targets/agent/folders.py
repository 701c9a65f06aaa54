"""Folders and files below the work folder: private, made whole or not at all, and removed whole."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import stat
import tempfile
from typing import IO

from edgevit.targets.agent.protocol import Json, RequestError

FILES, PACKAGES, JOBS, CARRIED = "files", "packages", "jobs", "carried"  # the folders in the work folder
PART = ".part"  # follows the hash in the name of what is not whole yet, or is being removed
KEPT = re.compile(r"([0-9a-f]{64})(\.part\w*)?\Z")  # the names in these folders


def work_folder_from(text: str) -> str:
    """The absolute work folder. ~ is the user's home."""
    folder = os.path.expanduser(text)
    if not os.path.isabs(folder) or ".." in folder.split("/"):
        raise RequestError("work_folder", f"{text!r} is not an absolute folder")
    return os.path.normpath(folder)


def make_private(folder: str) -> None:
    """Make a folder in the work folder, which this user alone may enter."""
    os.makedirs(folder, mode=0o700, exist_ok=True)
    for made in (os.path.dirname(folder), folder):
        if os.stat(made).st_uid != os.geteuid():
            raise RequestError("work_folder", f"{made} belongs to another user")


def new_part(folder: str, name: str) -> str:
    """A new folder beside the one that it becomes."""
    return tempfile.mkdtemp(prefix=name + PART, dir=folder)


def remove_folder(path: str) -> None:
    """Remove a folder. It loses its name at once, so that nobody takes the half of it for the whole."""
    folder, name = os.path.split(path)
    with contextlib.suppress(FileNotFoundError):  # another client may remove it at the same time
        if PART not in name:
            path = renamed_to_part(path, new_part(folder, name))
        shutil.rmtree(path, ignore_errors=True)


def renamed_to_part(path: str, part: str) -> str:
    """The path of a folder that has taken the place of an empty one."""
    try:
        os.rename(path, part)
    except OSError:
        os.rmdir(part)
        raise
    return part


def plain_size(path: str) -> int | None:
    """The bytes of a plain file; None if it is anything else, or not there."""
    try:
        info = os.lstat(path)
    except OSError:
        return None
    return info.st_size if stat.S_ISREG(info.st_mode) else None


def tree_bytes(folder: str) -> int:
    """The bytes of the plain files below a folder. A file with a second name elsewhere is counted there."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                info = os.lstat(os.path.join(place, name))
                total += info.st_size if stat.S_ISREG(info.st_mode) and info.st_nlink == 1 else 0
    return total


def write_json(path: str, value: Json) -> None:
    """Write a file whole or not at all."""
    part = path + PART
    with open(part, "wb", buffering=0) as file:
        write_all(file, json.dumps(value).encode("ascii"))
        os.fsync(file.fileno())
    os.replace(part, path)


def json_in(path: str) -> Json | None:
    """The object in a file; None if there is none."""
    try:
        with open(path, "rb") as file:
            value = json.load(file)
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def write_all(file: IO[bytes], content: bytes) -> None:
    """Write to a file without a buffer."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]
