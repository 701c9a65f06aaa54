"""What a test of an agent on this machine needs of its own: a home, a lock, a small disk."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def own_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder below `folder`, where the lock of the machine and the files of its agent lie, too."""
    for name in ("home", "tmp"):
        (folder / name).mkdir()
    monkeypatch.setenv("HOME", str(folder / "home"))
    monkeypatch.setenv("EDGEVIT_CACHE", str(folder / "home" / ".cache" / "edgevit"))
    monkeypatch.setenv("EDGEVIT_ROOT", str(folder))
    return folder / "home"


@contextmanager
def small_disk_at(folder: Path) -> Iterator[Path]:
    """A new folder on a file system of 1 MiB. The test is skipped if this user may not mount one."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
