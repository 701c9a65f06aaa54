"""Errors of the machine, explained: a full disk, no memory, no working folder, a locale without UTF-8."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from pathlib import Path

from edgevit import disks
from edgevit.errors import EdgevitError, first_line, is_out_of_memory

# Of the system, of Python and of the dynamic linker
NO_ROOM_IN_MEMORY = ("annot allocate memory", "can't start new thread", "failed to map segment", "Resource temporarily")
NO_ROOM_BYTES = 16 * 2**20  # a disk with less free space counts as full
NAMELESS = (errno.ENOENT, errno.EMFILE, errno.ENFILE, errno.EIO)  # errors of the system without a file name


def explained(error: Exception) -> EdgevitError | None:
    """The error as a user can act on it; None if it is a bug."""
    if is_out_of_memory(error) or any(words in str(error) for words in NO_ROOM_IN_MEMORY):
        return EdgevitError(
            "there is not enough memory", got=first_line(error), next="free some memory, or raise ulimit -v"
        )
    if isinstance(error, UnicodeEncodeError) and not is_utf8(sys.getfilesystemencoding()):
        return EdgevitError(
            "the system's locale lacks a character",
            got=f"{error.object[error.start : error.end]!r} in {error.encoding}",
            expected="a locale in UTF-8",
            next="LC_ALL=C.UTF-8 edgevit …",
        )
    return _system_error(error) if isinstance(error, OSError) else None


def check_working_folder() -> None:
    """Raise EdgevitError if the working folder was removed, since some libraries end the process then."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise EdgevitError("the working folder was removed", next="cd to a folder that exists") from None


def is_utf8(encoding: str | None) -> bool:
    """Whether an encoding has every character of Unicode."""
    return (encoding or "utf-8").lower().replace("-", "").startswith("utf")


def _system_error(error: OSError) -> EdgevitError | None:
    if error.errno in disks.IS_FULL:
        return _full_disk(error)
    if error.filename is not None:
        return EdgevitError(error.strerror or type(error).__name__, where=error.filename)
    try:
        check_working_folder()
    except EdgevitError as gone:
        return gone
    return EdgevitError(error.strerror or type(error).__name__) if error.errno in NAMELESS else None


def _full_disk(error: OSError) -> EdgevitError:
    temporary = disks.temporary_folders()
    full = [folder for folder in temporary if shutil.disk_usage(folder).free < NO_ROOM_BYTES]
    path = disks.naming_the_full_disk(error, full).filename
    is_temporary = path is not None and any(Path(path).is_relative_to(folder) for folder in temporary)
    or_move = ", or set TMPDIR to a folder on another disk" if is_temporary else ""
    return EdgevitError(
        "the disk is full", where=path, next=f"free some space{or_move}, and run the same command again"
    )
