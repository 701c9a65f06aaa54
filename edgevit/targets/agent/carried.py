"""Files that programs carry from one job to the next, such as a cache: carried/<name> in the work folder.

A job works on a copy of its own. If it succeeds, its copy takes the place of the file as a whole. Of two jobs at once,
the later one wins.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from typing import IO

from edgevit.targets.agent.folders import CARRIED, PART, make_private, plain_size, write_all
from edgevit.targets.agent.protocol import LARGEST_CARRIED
from edgevit.targets.agent.store import READ_BLOCK, hash_of_file


class Carried:
    """The carried files of a work folder."""

    def __init__(self, work_folder: str) -> None:
        self._folder = os.path.join(work_folder, CARRIED)

    def take(self, name: str, path: str) -> str | None:
        """Copy a file to a path. Gives its SHA-256; None if there is no such file."""
        source = os.path.join(self._folder, name)
        if plain_size(source) is None:
            return None
        try:
            os.utime(source)
            shutil.copyfile(source, path)
        except FileNotFoundError:  # another client made room
            return None
        with open(path, "rb", buffering=0) as file:
            return hash_of_file(file)

    def keep(self, name: str, file: IO[bytes]) -> str | None:
        """Let the content of an open file take the place of a carried file. Gives its SHA-256.

        A file that is too large, or for which the disk has no room, is not kept: then the old one goes, so that the
        next job begins a new one.
        """
        path = os.path.join(self._folder, name)
        try:
            if os.fstat(file.fileno()).st_size <= LARGEST_CARRIED:
                return self._replaced(path, file)
        except OSError:
            pass
        self.drop(name)
        return None

    def drop(self, name: str) -> None:
        """Remove a carried file. No file is no error."""
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(self._folder, name))

    def _replaced(self, path: str, file: IO[bytes]) -> str:
        make_private(self._folder)
        number, part = tempfile.mkstemp(prefix=os.path.basename(path) + PART, dir=self._folder)
        try:
            with os.fdopen(number, "w+b", buffering=0) as copy:
                file.seek(0)
                for block in iter(lambda: file.read(READ_BLOCK), b""):
                    write_all(copy, block)
                os.fsync(number)
                digest = hash_of_file(copy)
            os.replace(part, path)
        except BaseException:
            os.unlink(part)
            raise
        return digest
