"""Python packages from wheels, unpacked into a folder for PYTHONPATH. Nothing is installed."""

from __future__ import annotations

import compileall
import contextlib
import errno
import hashlib
import os
import py_compile
import re
import stat
import struct
import zipfile
import zlib
from typing import Collection

from edgevit.targets.agent.folders import PACKAGES, make_private, new_part, remove_folder
from edgevit.targets.agent.protocol import Json, RequestError, hash_of, list_in
from edgevit.targets.agent.store import READ_BLOCK, Store

MOST_WHEELS = 100
MOST_UNPACKED_FILES = 50_000
MOST_UNPACKED_BYTES = 4 * 2**30
MOST_LEVELS = 30  # of folders with modules
# Errors of the system that an archive causes. The last is an offset below 0.
WRONG_NAMES = (errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EINVAL)
# A wheel may hold files for other places: these belong beside the packages, and scripts and headers are left out.
BESIDE = re.compile(r"[^/]+\.data/(purelib|platlib)/")
ELSEWHERE = re.compile(r"[^/]+\.data/")


def unpack(request: Json, work_folder: str) -> Json:
    """The folder that holds the packages of wheels. It is made whole, once for each list of wheels.

    Args:
        request: `files`, the hashes of wheels in the store.
    """
    wheels = [hash_of(wheel) for wheel in list_in(request, "files", MOST_WHEELS)]
    packages = os.path.join(work_folder, PACKAGES)
    folder = os.path.join(packages, hashlib.sha256("\n".join(wheels).encode("ascii")).hexdigest())
    if not os.path.isdir(folder):
        store = Store(work_folder)
        paths = [store.path(wheel) for wheel in wheels]
        make_private(packages)
        part = new_part(packages, os.path.basename(folder))
        try:
            Unpacking(part).add(paths)
            compile_modules(part, folder)
            os.sync()  # a name after a power cut means that the content is there
            os.rename(part, folder)
        except OSError:
            if not os.path.isdir(folder):  # another client was not faster
                raise
        finally:
            remove_folder(part)
    os.utime(folder)
    return {"folder": folder}


def compile_modules(part: str, folder: str) -> None:
    """Compile the modules in `part`, which will be `folder`. The worker writes no bytecode: each start would compile.

    A module that this Python cannot compile is left as it is.
    """
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    compileall.compile_dir(part, maxlevels=MOST_LEVELS, ddir=folder, quiet=2, invalidation_mode=unchecked)


def use(names: Collection[str], work_folder: str) -> None:
    """Note that packages are used now. So room is made elsewhere first."""
    for name in names:
        with contextlib.suppress(OSError):
            os.utime(os.path.join(work_folder, PACKAGES, name))


class Unpacking:
    """A new folder that wheels are unpacked into. It holds plain files alone, and each of them once."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._files = self._bytes = 0

    def add(self, wheels: list[str]) -> None:
        """Unpack wheels. Refuses what is no wheel, leads out of the folder, or is too large."""
        for wheel in wheels:
            try:
                with zipfile.ZipFile(wheel) as archive:
                    for entry in archive.infolist():
                        self._add(archive, entry)
            except OSError as error:
                if error.errno not in WRONG_NAMES:
                    raise
                raise RequestError("bad_package", f"{wheel} holds a name that cannot be: {error.strerror}") from None
            except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, RuntimeError) as error:
                raise RequestError("bad_package", f"{wheel} is no wheel: {error}") from None

    def _add(self, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
        name = place_of(entry)
        self._files += 1
        if self._files > MOST_UNPACKED_FILES:
            raise RequestError("bad_package", f"the wheels have more than {MOST_UNPACKED_FILES:,} files")
        if name is None or entry.is_dir():
            return
        path = os.path.join(self._folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with archive.open(entry) as source, open(path, "xb") as file:
            for block in iter(lambda: source.read(READ_BLOCK), b""):
                self._bytes += len(block)
                if self._bytes > MOST_UNPACKED_BYTES:
                    raise RequestError("bad_package", f"the wheels have more than {MOST_UNPACKED_BYTES:,} bytes")
                file.write(block)


def place_of(entry: zipfile.ZipInfo) -> str | None:
    """The path of a file below the folder; None if it is left out. Refuses a link, and a path that leads out."""
    name = entry.filename.rstrip("/")
    parts = name.split("/")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise RequestError("bad_package", f"{name!r} is a link or a device")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise RequestError("bad_package", f"{name!r} is compressed in another way than wheels are")
    if any(part in ("", ".", "..") for part in parts) or "\\" in name or "\0" in name:
        raise RequestError("bad_package", f"{name!r} is not a path below the folder")
    if BESIDE.match(name):
        return name.split("/", 2)[2]
    return None if ELSEWHERE.match(name) else name
