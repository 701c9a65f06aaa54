"""Room on a target: what makes room for new files there, and what stays."""

from __future__ import annotations

import hashlib
import os
import sys
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from edgevit.artifacts import Json
from edgevit.targets import uploads
from edgevit.targets.connection import Connection, connected
from edgevit.targets.jobs import Job, ended_job, run_job
from edgevit.targets.named import NamedTarget
from edgevit.targets.packages import unpack
from edgevit.targets.uploads import evict
from tests.targets.machine import own_home, small_disk_at
from tests.targets.sending import sent

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux, as the targets of the agent do")
HERE = NamedTarget("local-cpu")
PACKAGE = "a" * 64


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The work folder of the test's own agent."""
    return own_home(tmp_path, monkeypatch) / ".cache" / "edgevit"


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


def test_the_files_of_a_job_stay_until_they_are_fetched(
    here: Connection, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine waits on the target for the next build, while the cache is full."""
    monkeypatch.setattr(uploads, "upload", partial(uploads.upload, cache_bytes=25_000))
    program = Job({}, ("sh", "-c", "head -c 20000 /dev/zero > engine"), {}, 60, is_repeatable=False)
    with ended_job(here, program, tmp_path / "out") as waiting:
        for number in range(3):
            for folder in (work / "jobs").iterdir():
                os.utime(folder, (0, 0))  # the longest unused
            images = {"images": file_of(tmp_path, str(number), 10_000)}
            assert run_job(here, Job(images, ("true",), {}, 60, True), tmp_path / "out").status == 0
        assert waiting.fetch({"engine": 20_000}, tmp_path / "out")["engine"].stat().st_size == 20_000
    assert not here.waiting
    evict(here.call_once(lambda session: session), 0)
    assert not any((work / "jobs").iterdir())


@pytest.fixture
def small_disk(work: Path) -> Iterator[Path]:
    """The work folder on a file system of 1 MiB."""
    with small_disk_at(work) as folder:
        yield folder


def test_old_files_make_room_on_a_small_disk(small_disk: Path, here: Connection, tmp_path: Path) -> None:
    """The disk is full long before the cache is."""
    for name in ("a", "b", "c"):
        images = {"images": file_of(tmp_path, name, 400_000)}
        program = Job(images, ("sh", "-c", "cat images | wc -c"), {}, 60, True)
        assert run_job(here, program, tmp_path / "out").stdout == "400000\n"
    assert len(list((small_disk / "files").iterdir())) == 2


def test_files_of_jobs_that_ended_take_no_room_after_an_eviction(here: Connection, work: Path, tmp_path: Path) -> None:
    """Those of a running job stay, since their bytes would not be free."""
    images = file_of(tmp_path, "images", 7_000)

    def evicted_in(script: str) -> tuple[bool, int]:
        """Whether the file is in the store after an eviction, and the bytes of its second names."""
        stored = here.call(lambda agent: sent(agent, [images]))[images]
        values: Json = {"files": {"images": stored}, "arguments": ["sh", "-c", script], "limit_s": 60}
        name = hashlib.sha256(script.encode()).hexdigest()
        here.call(lambda agent: agent.ask_for_json("start", job=name, **values))
        here.call(lambda agent: agent.ask_for_json("job", job=name, wait_s=1))
        here.call(lambda agent: evict(agent, 0, keep=[name]))
        left = sum(file.stat().st_size for file in (work / "jobs" / name / "files").glob("images"))
        is_stored = (work / "files" / stored).exists()
        here.call(lambda agent: agent.ask_for_json("stop", job=name))
        return is_stored, left

    assert evicted_in("true") == (False, 0)
    assert evicted_in("sleep 60") == (True, 7_000 // 6 * 6)


def test_old_files_make_room_for_packages(small_disk: Path, here: Connection, tmp_path: Path) -> None:
    """How much room the packages of a wheel need is known when the disk is full."""
    here.call(lambda agent: sent(agent, [file_of(tmp_path, "old", 700_000)]))
    with zipfile.ZipFile(tmp_path / "a.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("a.py", "0" * 600_000)
    folder = unpack(here, [tmp_path / "a.whl"])
    assert (Path(folder) / "a.py").stat().st_size == 600_000
    assert len(list((small_disk / "files").iterdir())) == 1
