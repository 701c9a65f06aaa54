"""A cache of the sha256 of images, in a JSON file. An entry is valid while the image's file does not change."""

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
    """The sha256 of an image's content, and why it cannot be decoded (None if it can)."""

    sha256: str
    problem: str | None = None


class StoredImage(Protocol):
    """An encoded image on disk."""

    @property
    def key(self) -> str:
        """The unique name of the image in the cache."""
        ...

    def stamp(self) -> str:
        """A text that changes whenever the file that holds the image changes."""
        ...

    def read(self) -> bytes:
        """The bytes of the image. Raises OSError if they cannot be read now, ValueError if they can never be read."""
        ...


@dataclass(frozen=True)
class StoredFile:
    """A file with one image, or the part of a file from `offset` that holds one image in `size` bytes."""

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
            raise OSError("the file ends before the image does")
        return content


def content_of(image: StoredImage, where: str) -> bytes:
    """The bytes of an image. Raises DataError, naming `where`, if they cannot be read."""
    try:
        return image.read()
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read: {_reason(error)}", where=where) from None


class ImageStates:
    """Hashes and decodes each image once. An entry is valid while the image's key and stamp stay the same.

    An image that could not be read for lack of permission, of memory or of a working disk is not stored: the next
    process reads it again.
    """

    def __init__(self, file: Path | None = None, progress: Progress | None = None) -> None:
        self._file = file
        self._progress = progress or SilentProgress()
        self._known: dict[str, _Entry] = _load(file)
        self._not_stored: dict[str, ImageState] = {}
        self._has_new_entries = False

    def of(self, images: Iterable[StoredImage]) -> list[ImageState]:
        """The state of each image, in order. Images without a valid entry are read now, on all cores."""
        wanted = [(image, image.key) for image in images]
        unknown = [image for image, key in wanted if key not in self._not_stored and not self._is_valid(image, key)]
        if unknown:
            self._read(unknown)
        return [self._not_stored.get(key) or ImageState(*self._known[key][1:]) for _, key in wanted]

    def save(self) -> None:
        """Write the file, if entries were added. A reader sees the whole old file or the whole new file."""
        if self._file and self._has_new_entries:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            partial = self._file.with_name(f"{self._file.name}.{os.getpid()}")
            partial.unlink(missing_ok=True)
            with partial.open("x", encoding="utf-8") as file:  # "x" does not follow a link of that name
                file.write(json.dumps({"version": _VERSION, "files": self._known}, separators=(",", ":")))
            partial.replace(self._file)
            self._has_new_entries = False

    def _is_valid(self, image: StoredImage, key: str) -> bool:
        return key in self._known and self._known[key][0] == image.stamp()

    def _read(self, images: list[StoredImage]) -> None:
        with ThreadPoolExecutor() as pool, self._progress.bar("reading images", len(images), "images") as bar:
            for image, (state, stamp) in zip(images, pool.map(_state, images), strict=True):
                if stamp is None:
                    self._not_stored[image.key] = state
                else:
                    self._known[image.key] = (stamp, state.sha256, state.problem)
                    self._has_new_entries = True
                bar.advance()


_Entry = tuple[str, str, str | None]  # stamp, sha256, problem


def stamp_of(path: Path) -> str:
    """Size, mtime, ctime and inode of a file as text; "none" if there is no such file.

    A program can set a file's mtime back, as unpacking an archive does, but not its ctime.
    """
    try:
        status = path.stat()
    except OSError:
        return _NO_FILE
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"


def stamp_of_all(files: Iterable[Path]) -> str:
    """A common stamp of several files."""
    return hashlib.sha256("\n".join(f"{file} {stamp_of(file)}" for file in files).encode()).hexdigest()


def _state(image: StoredImage) -> tuple[ImageState, str | None]:
    """The state of an image, and the stamp to store it under; None if another attempt may give another state."""
    stamp = image.stamp()
    try:
        content = image.read()
    except OSError as error:
        return ImageState("", _reason(error)), None
    except ValueError as error:
        return ImageState("", str(error)), stamp
    digest = hashlib.sha256(content).hexdigest()
    unchanged = image.stamp() == stamp
    try:
        open_image(BytesIO(content))
    except OSError as error:
        return ImageState(digest, _reason(error)), None
    except ValueError as error:
        return ImageState(digest, str(error)), stamp if unchanged else None
    return ImageState(digest), stamp if unchanged else None


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _load(file: Path | None) -> dict[str, _Entry]:
    """The entries of the file; none if it is missing, damaged or of another version, since it can be rebuilt."""
    try:
        content = json.loads(file.read_text("utf-8")) if file else {}
        if content.get("version") != _VERSION:
            return {}
        return {key: (str(stamp), str(digest), problem) for key, (stamp, digest, problem) in content["files"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}
