"""Files with a hash of their content and owner. A damaged file, or a file of another owner, counts as absent."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from edgevit.disks import write_synced

_FORMAT = b"edgevit sealed file 1 "
_HEADER_BYTES = len(_FORMAT) + 64 + 1  # the hash in hex, and a line break
_BLOCK_BYTES = 1 << 20


def write_sealed(path: Path, owner: str, *contents: bytes | memoryview) -> None:
    """Write a file in one step: a reader sees the old file or the new one, whole.

    Args:
        owner: the owner of the content; `opened_sealed` has to be called with the same text.
    """
    partial = path.with_name(f"{path.name}.half")
    digest = _hash_of(owner)
    for content in contents:
        digest.update(content)
    write_synced(partial, _header(digest), *contents)
    os.replace(partial, path)


@contextmanager
def opened_sealed(path: Path, owner: str) -> Iterator[BinaryIO | None]:
    """The file at the start of its content; None if it is missing, damaged or of another owner."""
    if not path.is_file():
        yield None
        return
    with path.open("rb") as file:
        yield file if _is_whole(file, owner) else None


def _is_whole(file: BinaryIO, owner: str) -> bool:
    """Whether the hash is right. Reads the whole file, and leaves it at the start of its content."""
    header = file.read(_HEADER_BYTES)
    digest = _hash_of(owner)
    while block := file.read(_BLOCK_BYTES):
        digest.update(block)
    file.seek(_HEADER_BYTES)
    return header == _header(digest)


def _header(digest: hashlib._Hash) -> bytes:
    return b"%s%s\n" % (_FORMAT, digest.hexdigest().encode())


def _hash_of(owner: str) -> hashlib._Hash:
    return hashlib.sha256(f"{owner}\n".encode())
