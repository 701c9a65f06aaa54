"""sha256 of pictures that were hashed before and have not changed since, kept in a JSON file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

from edgevit.data.preprocess import open_image
from edgevit.progress import Progress, SilentProgress

_VERSION = 1
_LARGEST_PART = 2**28  # bytes


@dataclass(frozen=True)
class ImageState:
    """The sha256 of a picture's file, and why it cannot be decoded (None where it can)."""

    sha256: str
    problem: str | None = None


class Stored(Protocol):
    """Where an encoded picture lies."""

    @property
    def key(self) -> str:
        """Its name in the cache, unlike any other's."""
        ...

    def stamp(self) -> tuple[int, int]:
        """The size and mtime (ns) of what holds it: its content is the same while these are."""
        ...

    def read(self) -> bytes:
        """Its content. Raises OSError where that cannot be read."""
        ...


@dataclass(frozen=True)
class StoredFile:
    """A file, or `size` bytes of one that holds many."""

    file: Path
    offset: int = 0
    size: int | None = None

    @property
    def key(self) -> str:
        return str(self.file) if self.size is None else f"{self.file}@{self.offset}+{self.size}"

    def stamp(self) -> tuple[int, int]:
        return stamp_of(self.file)

    def read(self) -> bytes:
        if self.size is None:
            return self.file.read_bytes()
        if self.size > _LARGEST_PART:
            raise OSError(f"its {self.size} bytes are more than {_LARGEST_PART}")
        with self.file.open("rb") as opened:
            opened.seek(self.offset)
            content = opened.read(self.size)
        if len(content) < self.size:
            raise OSError("the file that holds it ends before it")
        return content


class ImageStates:
    """Hashes and decodes each picture once; an entry holds while the picture's key and stamp stay the same."""

    def __init__(self, file: Path | None = None, progress: Progress | None = None) -> None:
        self._file = file
        self._progress = progress or SilentProgress()
        self._known: dict[str, list[Any]] = _load(file)
        self._grown = False

    def of(self, pictures: Iterable[Stored]) -> list[ImageState]:
        """The state of each picture, in order; unknown ones are read now, on all cores."""
        wanted = [(picture, picture.key) for picture in pictures]
        unknown = [picture for picture, key in wanted if self._known.get(key, [])[:2] != [*picture.stamp()]]
        if unknown:
            self._read(unknown)
        return [ImageState(*self._known[key][2:]) for _, key in wanted]

    def save(self) -> None:
        """Write the file, if anything was added. A reader sees the old content or the new, never half of it."""
        if self._file and self._grown:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            half = self._file.with_name(f"{self._file.name}.{os.getpid()}")
            half.write_text(json.dumps({"version": _VERSION, "files": self._known}, separators=(",", ":")), "utf-8")
            half.replace(self._file)
            self._grown = False

    def _read(self, pictures: list[Stored]) -> None:
        self._grown = True
        with ThreadPoolExecutor() as pool, self._progress.bar("reading images", len(pictures), "images") as bar:
            for picture, entry in zip(pictures, pool.map(_entry, pictures), strict=True):
                self._known[picture.key] = entry
                bar.advance()


def stamp_of(path: Path) -> tuple[int, int]:
    """Size and mtime (ns) of a file; what no file has where there is none."""
    try:
        status = path.stat()
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _entry(picture: Stored) -> list[Any]:
    size, mtime_ns = picture.stamp()
    try:
        content = picture.read()
    except OSError as error:
        return [size, mtime_ns, "", error.strerror or str(error)]
    digest = hashlib.sha256(content).hexdigest()
    return [size, mtime_ns, digest, _problem(lambda: open_image(BytesIO(content)))]


def _problem(read: Callable[[], object]) -> str | None:
    try:
        read()
    except ValueError as error:
        return str(error)
    return None


def _load(file: Path | None) -> dict[str, list[Any]]:
    """What is known, or nothing where the file is missing or damaged: it can always be made again."""
    try:
        content = json.loads(file.read_text("utf-8")) if file else {}
        return dict(content["files"]) if content.get("version") == _VERSION else {}
    except (OSError, ValueError, KeyError, AttributeError):
        return {}
