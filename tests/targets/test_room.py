"""Room on a target: what makes room for new files there, and what stays."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from edgevit.targets import uploads
from edgevit.targets.connection import Connection, connected
from edgevit.targets.jobs import Job, run_job
from edgevit.targets.named import NamedTarget

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux, as the targets of the agent do")
HERE = NamedTarget("local-cpu")
PACKAGE = "a" * 64


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The work folder of the test's own agent."""
    for name in ("home", "tmp"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("EDGEVIT_ROOT", str(tmp_path))
    return tmp_path / "home" / ".cache" / "edgevit"


@pytest.fixture
def here(work: Path) -> Iterator[Connection]:
    with connected(HERE, pytest.fail) as connection:
        yield connection


def file_of(folder: Path, name: str, size: int) -> Path:
    (folder / name).write_bytes(name.encode() * (size // len(name)))
    return folder / name


def test_the_packages_of_a_program_stay_however_many_images_follow(
    here: Connection, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long evaluation sends more than the cache takes, and each of its programs imports the packages."""
    package = work / "packages" / PACKAGE
    package.mkdir(parents=True)
    (package / "module.py").write_text("VALUE = 7\n")
    monkeypatch.setattr(uploads, "upload", partial(uploads.upload, cache_bytes=25_000))
    arguments = (sys.executable, "-B", "-c", "import module; print(module.VALUE)")
    for number in range(4):
        os.utime(package, (0, 0))  # as after many programs
        images = {"images": file_of(tmp_path, str(number), 10_000)}
        finished = run_job(here, Job(images, arguments, {"PYTHONPATH": str(package)}, 60, True), tmp_path / "out")
        assert (finished.status, finished.stdout) == (0, "7\n")
        assert package.stat().st_mtime > 1
    assert len(list((work / "files").iterdir())) == 2
