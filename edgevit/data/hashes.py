"""sha256 of files that were hashed before and have not changed since, kept in a JSON file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from edgevit.data.preprocess import open_image
from edgevit.progress import Progress, SilentProgress

_VERSION = 1


@dataclass(frozen=True)
class ImageState:
    """The sha256 of a picture's file, and why it cannot be decoded (None where it can)."""

    sha256: str
    problem: str | None = None


class ImageStates:
    """Hashes and decodes each picture once; an entry holds while the file's path, size and mtime stay the same."""

    def __init__(self, file: Path | None = None, progress: Progress | None = None) -> None:
        self._file = file
        self._progress = progress or SilentProgress()
        self._known: dict[str, list[Any]] = _load(file)
        self._grown = False

    def of(self, paths: Iterable[Path]) -> list[ImageState]:
        """The state of each file, in order; unknown ones are read now, on all cores."""
        stamped = [(path, *_stamp(path)) for path in paths]
        unknown = [path for path, *stamp in stamped if self._known.get(str(path), [])[:2] != stamp]
        if unknown:
            self._read(unknown)
        return [ImageState(*self._known[str(path)][2:]) for path, *_ in stamped]

    def save(self) -> None:
        """Write the file, if anything was added. A reader sees the old content or the new, never half of it."""
        if self._file and self._grown:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            half = self._file.with_name(f"{self._file.name}.{os.getpid()}")
            half.write_text(json.dumps({"version": _VERSION, "files": self._known}, separators=(",", ":")))
            half.replace(self._file)
            self._grown = False

    def _read(self, paths: list[Path]) -> None:
        self._grown = True
        with ThreadPoolExecutor() as pool, self._progress.bar("reading images", len(paths), "images") as bar:
            for path, entry in zip(paths, pool.map(_entry, paths), strict=True):
                self._known[str(path)] = entry
                bar.advance()


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _entry(path: Path) -> list[Any]:
    size, mtime_ns = _stamp(path)
    try:
        content = path.read_bytes()
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
        content = json.loads(file.read_text()) if file else {}
        return dict(content["files"]) if content.get("version") == _VERSION else {}
    except (OSError, ValueError, KeyError, AttributeError):
        return {}
