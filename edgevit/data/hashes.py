"""sha256 of pictures that were hashed before and have not changed since, kept in a JSON file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Protocol

from edgevit.data.preprocess import LARGEST_FILE, file_content, open_image
from edgevit.errors import DataError
from edgevit.progress import Progress, SilentProgress

_VERSION = 2
_NO_FILE = "none"


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

    def stamp(self) -> str:
        """What the system says of the file that holds it: its content is the same while this is."""
        ...

    def read(self) -> bytes:
        """Its content. Raises OSError where that cannot be read now, ValueError where it never can."""
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

    def stamp(self) -> str:
        return stamp_of(self.file)

    def read(self) -> bytes:
        if self.size is None:
            return file_content(self.file)
        if self.size > LARGEST_FILE:
            raise ValueError(f"its {self.size} bytes are more than {LARGEST_FILE}")
        with self.file.open("rb") as opened:
            opened.seek(self.offset)
            content = opened.read(self.size)
        if len(content) < self.size:
            raise OSError("the file that holds it ends before it")
        return content


def content_of(picture: Stored, where: str) -> bytes:
    """The content of a picture. Raises DataError, naming `where`, if it cannot be read."""
    try:
        return picture.read()
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read: {_reason(error)}", where=where) from None


class ImageStates:
    """Hashes and decodes each picture once; an entry holds while the picture's key and stamp stay the same.

    A picture that could not be read for want of rights, memory or a working disk is tried again by the next process.
    """

    def __init__(self, file: Path | None = None, progress: Progress | None = None) -> None:
        self._file = file
        self._progress = progress or SilentProgress()
        self._known: dict[str, _Entry] = _load(file)
        self._for_now: dict[str, ImageState] = {}
        self._grown = False

    def of(self, pictures: Iterable[Stored]) -> list[ImageState]:
        """The state of each picture, in order; unknown ones are read now, on all cores."""
        wanted = [(picture, picture.key) for picture in pictures]
        unknown = [picture for picture, key in wanted if key not in self._for_now and not self._holds(picture, key)]
        if unknown:
            self._read(unknown)
        return [self._for_now.get(key) or ImageState(*self._known[key][1:]) for _, key in wanted]

    def save(self) -> None:
        """Write the file, if anything was added. A reader sees the old content or the new, never half of it."""
        if self._file and self._grown:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            half = self._file.with_name(f"{self._file.name}.{os.getpid()}")
            half.unlink(missing_ok=True)
            with half.open("x", encoding="utf-8") as file:  # never through a link of that name
                file.write(json.dumps({"version": _VERSION, "files": self._known}, separators=(",", ":")))
            half.replace(self._file)
            self._grown = False

    def _holds(self, picture: Stored, key: str) -> bool:
        return key in self._known and self._known[key][0] == picture.stamp()

    def _read(self, pictures: list[Stored]) -> None:
        with ThreadPoolExecutor() as pool, self._progress.bar("reading images", len(pictures), "images") as bar:
            for picture, (state, stamp) in zip(pictures, pool.map(_state, pictures), strict=True):
                if stamp is None:
                    self._for_now[picture.key] = state
                else:
                    self._known[picture.key] = (stamp, state.sha256, state.problem)
                    self._grown = True
                bar.advance()


_Entry = tuple[str, str, str | None]  # stamp, sha256, problem


def stamp_of(path: Path) -> str:
    """Size, mtime, ctime and inode of a file; no file's where there is none.

    A program can set a file's mtime back, as unpacking an archive does, but not its ctime.
    """
    try:
        status = path.stat()
    except OSError:
        return _NO_FILE
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"


def stamp_of_all(files: Iterable[Path]) -> str:
    """One stamp for the files that hold a picture together."""
    return hashlib.sha256("\n".join(f"{file} {stamp_of(file)}" for file in files).encode()).hexdigest()


def _state(picture: Stored) -> tuple[ImageState, str | None]:
    """The state of a picture, and the stamp under which it is a fact; None where another try may find another."""
    stamp = picture.stamp()
    try:
        content = picture.read()
    except OSError as error:
        return ImageState("", _reason(error)), None
    except ValueError as error:
        return ImageState("", str(error)), stamp
    digest = hashlib.sha256(content).hexdigest()
    lasts = picture.stamp() == stamp
    try:
        open_image(BytesIO(content))
    except OSError as error:
        return ImageState(digest, _reason(error)), None
    except ValueError as error:
        return ImageState(digest, str(error)), stamp if lasts else None
    return ImageState(digest), stamp if lasts else None


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _load(file: Path | None) -> dict[str, _Entry]:
    """The entries of the file; none where it is missing, damaged or of another version: it can be made again."""
    try:
        content = json.loads(file.read_text("utf-8")) if file else {}
        if content.get("version") != _VERSION:
            return {}
        return {key: (str(stamp), str(digest), problem) for key, (stamp, digest, problem) in content["files"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}
