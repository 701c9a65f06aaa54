"""Files and folders written whole or not at all, the user's cache folder, and errors that name a full disk."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from edgevit.errors import ArtifactError, RecipeError

PART = ".edgevit-part-"
ABANDONED_S = 3600  # after so long a part belongs to a process that was killed
_BLOCK_BYTES = 1 << 20
IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def check_out(out: Path, *inputs: Path | None, option: str = "--out") -> None:
    """Refuse, before any work, a result that could not be written, or would replace one of its inputs.

    Raises RecipeError.
    """
    resolved = out.resolve()
    for source in filter(None, inputs):
        if source.resolve() in (resolved, *resolved.parents):
            raise RecipeError("this would overwrite its own input", where=out, next=f"give another {option}")
    if out.is_dir():
        raise RecipeError("this is a folder", where=out, expected="a file", next=f"name a file in it with {option}")
    above = next(folder for folder in resolved.parents if folder.exists())
    if not above.is_dir():
        raise RecipeError("a file is in the way of the folder", where=out, got=above, next=f"give another {option}")
    if not os.access(above, os.W_OK):
        got = f"no right to write in {above}"
        raise RecipeError("the file cannot be written", where=out, got=got, next=f"give another {option}")


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


def cache_folder() -> Path | None:
    """The user's cache folder; None if this user has no home. It may be removed at any time.

    It is `EDGEVIT_CACHE`, or `edgevit` in `XDG_CACHE_HOME` or ~/.cache.
    """
    if own := os.environ.get("EDGEVIT_CACHE"):
        return Path(own)
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared) / "edgevit"
    try:
        return Path.home() / ".cache" / "edgevit"
    except RuntimeError:
        return None


def config_folder() -> Path | None:
    """The folder of the user's settings; None if this user has no home. It need not be there.

    It is `edgevit` in `XDG_CONFIG_HOME` or ~/.config. As the XDG specification says, a relative path is ignored.
    """
    shared = os.environ.get("XDG_CONFIG_HOME", "")
    if os.path.isabs(shared):
        return Path(shared) / "edgevit"
    try:
        return Path.home() / ".config" / "edgevit"
    except RuntimeError:
        return None


def naming_the_full_disk(error: OSError, folders: Sequence[Path]) -> OSError:
    """A "disk full" error with a path on the full disk; any other error as it is.

    If the error names no file, the path is the folder whose disk has the least free space.

    Args:
        folders: the folders that were written to.
    """
    if error.errno not in IS_FULL:
        return error
    written = error.filename2 or error.filename  # a copy names its source first
    full = written or min(filter(Path.exists, folders), key=lambda folder: shutil.disk_usage(folder).free, default=None)
    return OSError(error.errno, error.strerror, None if full is None else str(full))


def temporary_folders() -> list[Path]:
    """The folder of temporary files; an empty list if no disk has room for it."""
    try:
        return [Path(tempfile.gettempdir())]
    except FileNotFoundError:
        return []


def check_room(file: Path, size_bytes: int) -> None:
    """Try to write a file of this size, after a library failed without a reason. Raises OSError if it fails."""
    try:
        with file.open("wb") as opened:
            for start in range(0, size_bytes, _BLOCK_BYTES):
                opened.write(bytes(min(_BLOCK_BYTES, size_bytes - start)))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from None
    finally:
        file.unlink(missing_ok=True)


def write_synced(path: Path, *contents: bytes | memoryview) -> None:
    """Write a file that survives a power cut. Raises OSError on a full disk; torch and safetensors raise others."""
    with path.open("wb") as file:
        file.writelines(contents)
        file.flush()
        os.fsync(file.fileno())


def copy_folder(source: Path, to: Path) -> None:
    """Copy a folder of plain files. Stops at the first OSError and raises it, unlike shutil.copytree."""
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
    """Write the files below a folder through to the disk: some disks report only then that they are full."""
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
