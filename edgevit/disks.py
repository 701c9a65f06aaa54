"""Files and folders written whole or not at all, and errors that name a full disk."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from edgevit.errors import ArtifactError

PART = ".edgevit-part-"
ABANDONED_S = 3600  # after so long a part belongs to a process that was killed
_BLOCK_BYTES = 1 << 20
IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def whole_or_not_at_all(out: Path) -> Iterator[Path]:
    """Where to write a file or a folder, which becomes `out` in one step.

    Raises:
        ArtifactError: a folder that is not empty has appeared at `out` meanwhile.
        OSError: the disk is full; the error names `out`.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(out.parent)
    folder = None
    try:
        folder = Path(tempfile.mkdtemp(prefix=PART, dir=out.parent))
        yield folder / out.name
        _sync(folder)
        (folder / out.name).replace(out)
    except OSError as error:
        if error.errno in IS_FULL:
            raise OSError(error.errno, error.strerror, str(out)) from None
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise ArtifactError("the folder is already there", where=out, next="give another path") from None
        raise
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def naming_the_full_disk(error: OSError, folders: Sequence[Path]) -> OSError:
    """The error with a path on the disk that is full; an error of another kind as it is.

    Python does not say which file a failed write was to. Then it is the folder whose disk has the least room.

    Args:
        folders: where files were being written.
    """
    if error.errno not in IS_FULL:
        return error
    written = error.filename2 or error.filename  # a copy names its source first
    full = written or min(filter(Path.exists, folders), key=lambda folder: shutil.disk_usage(folder).free, default=None)
    return OSError(error.errno, error.strerror, None if full is None else str(full))


def temporary_folders() -> list[Path]:
    """The folder of temporary files; none where no disk has room for it."""
    try:
        return [Path(tempfile.gettempdir())]
    except FileNotFoundError:
        return []


def check_room(file: Path, size_bytes: int) -> None:
    """Try to write a file of this size, for libraries that do not say why they could not. OSError where it fails."""
    try:
        with file.open("wb") as opened:
            for start in range(0, size_bytes, _BLOCK_BYTES):
                opened.write(bytes(min(_BLOCK_BYTES, size_bytes - start)))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from None
    finally:
        file.unlink(missing_ok=True)


def write_synced(path: Path, *contents: bytes | memoryview) -> None:
    """Write a file that outlasts a power cut; OSError on a full disk, which torch and safetensors call otherwise."""
    with path.open("wb") as file:
        file.writelines(contents)
        file.flush()
        os.fsync(file.fileno())


def copy_folder(source: Path, to: Path) -> None:
    """Copy a folder of plain files. Unlike shutil.copytree it stops at the first OSError, and raises that."""
    to.mkdir()
    for path in sorted(source.rglob("*")):
        copy = to / path.relative_to(source)
        if path.is_dir():
            copy.mkdir()
        else:
            shutil.copyfile(path, copy)


def _remove_abandoned(folder: Path) -> None:
    """Remove what killed processes have left."""
    for left in folder.glob(f"{PART}*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > ABANDONED_S:
                shutil.rmtree(left)


def _sync(folder: Path) -> None:
    """Bring the files below a folder to the disk: some disks say only then that they are full."""
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
