"""Files by their SHA-256, in the folder `files` of the work folder. A file is whole, or its name ends in .part."""

from __future__ import annotations

import fcntl
import hashlib
import os
from typing import IO

from edgevit.targets.agent.folders import FILES, PART, make_private, plain_size, write_all
from edgevit.targets.agent.probe import free_bytes
from edgevit.targets.agent.protocol import (
    IS_FULL,
    LARGEST_FILE,
    MOST_HASHES,
    Json,
    RequestError,
    chunk_in,
    hash_in,
    list_in,
    number_in,
)

READ_BLOCK = 2**20


class Store:
    """The files of a work folder."""

    def __init__(self, work_folder: str) -> None:
        self._folder = os.path.join(work_folder, FILES)

    def path(self, name: str) -> str:
        """The path of a whole file, whose last use is now. Refuses one that is not here."""
        path = os.path.join(self._folder, name)
        if plain_size(path) is None:
            raise RequestError("missing_file", f"there is no file {name}")
        os.utime(path)
        return path

    def missing(self, request: Json) -> list[Json]:
        """Those of the files that are not here, each with the bytes that a broken upload has left."""
        missing = []
        for wanted in list_in(request, "files", MOST_HASHES):
            name, size = hash_in(wanted), number_in(wanted, "bytes", LARGEST_FILE)
            path = os.path.join(self._folder, name)
            if plain_size(path) == size:
                os.utime(path)
            else:
                missing.append({"sha256": name, "have": min(plain_size(path + PART) or 0, size)})
        return missing

    def put(self, request: Json) -> Json:
        """Append a chunk to a file. With its last byte, the file gets its name, if its hash is right."""
        name, size = hash_in(request), number_in(request, "bytes", LARGEST_FILE)
        offset = number_in(request, "offset", size)
        chunk = chunk_in(request, size - offset)
        path = os.path.join(self._folder, name)
        if plain_size(path) == size:
            return {"have": size, "is_whole": True}
        make_private(self._folder)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(path + PART, flags, 0o600), "r+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # two clients may send one file
            have = file.seek(0, os.SEEK_END)
            if have != offset:
                raise RequestError("wrong_offset", "the chunk does not follow the last one", have=have)
            self._append(file, chunk, path + PART)
            if have + len(chunk) == size:
                give_name(file, path, name)
        return {"have": have + len(chunk), "is_whole": have + len(chunk) == size}

    def _append(self, file: IO[bytes], chunk: bytes, part: str) -> None:
        try:
            write_all(file, chunk)
            os.fsync(file.fileno())
        except OSError as error:
            os.unlink(part)  # it would keep the disk full
            if error.errno in IS_FULL:
                raise RequestError("disk_full", str(error), free_bytes=free_bytes(self._folder)) from None
            raise


def give_name(file: IO[bytes], path: str, name: str) -> None:
    """Let a part have its name. Nobody writes into it any more: programs share it."""
    if hash_of_file(file) != name:
        os.unlink(path + PART)
        raise RequestError("wrong_hash", "the file is not what its hash says")
    os.fchmod(file.fileno(), 0o400)
    os.replace(path + PART, path)


def hash_of_file(file: IO[bytes]) -> str:
    """The SHA-256 of an open file."""
    digest = hashlib.sha256()
    file.seek(0)
    for block in iter(lambda: file.read(READ_BLOCK), b""):
        digest.update(block)
    return digest.hexdigest()
