"""Wheels that are unpacked on a target: what Python finds there, and archives that lead out or grow."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgevit.errors import TargetError
from edgevit.targets.agent import packages as agent_packages
from edgevit.targets.agent import protocol
from edgevit.targets.agent.folders import KEPT
from edgevit.targets.agent_session import Refused
from edgevit.targets.connection import Connection, connected
from edgevit.targets.jobs import Job, run_job
from edgevit.targets.named import NamedTarget
from edgevit.targets.packages import unpack
from edgevit.targets.uploads import clean, evict
from tests.targets.machine import own_home

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux, as the targets of the agent do")
LINK = (stat.S_IFLNK | 0o777) << 16
FILE = (stat.S_IFREG | 0o644) << 16


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connection]:
    own_home(tmp_path, monkeypatch)
    with connected(NamedTarget("local-cpu"), pytest.fail) as connection:
        yield connection


def wheel(path: Path, *entries: tuple[str, str], attributes: int = FILE) -> Path:
    """A zip file with entries of a name and a content, also where two are equal."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            entry = zipfile.ZipInfo("placeholder")
            entry.filename, entry.external_attr = name, attributes
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    return path


def unpacked(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "__pycache__"]
    return {str(path.relative_to(folder)): path.read_text() for path in files}


def test_python_finds_the_packages_of_wheels(here: Connection, tmp_path: Path) -> None:
    """Also those that a wheel keeps in its data folder; its scripts and headers are left out."""
    wheels = [
        wheel(tmp_path / "a-1.whl", ("a/__init__.py", "from b import c; VALUE = c"), ("a-1.dist-info/METADATA", "")),
        wheel(
            tmp_path / "b-2.whl",
            ("b-2.data/purelib/b/", ""), ("b-2.data/purelib/b/__init__.py", "c = 42"), ("b-2.data/platlib/b/d.so", "d"),
            ("b-2.data/scripts/b", "#!python"), ("b-2.data/headers/b.h", ""),
        ),
    ]  # fmt: skip
    folder = unpack(here, wheels)
    assert set(unpacked(Path(folder))) == {"a/__init__.py", "a-1.dist-info/METADATA", "b/__init__.py", "b/d.so"}
    program = (sys.executable, "-c", "import a; print(a.VALUE, a.__file__)")
    finished = run_job(here, Job({}, program, {"PYTHONPATH": folder}, 60, False), tmp_path / "out")
    assert finished.stdout == f"42 {folder}/a/__init__.py\n"


def test_modules_are_compiled_once_when_they_are_unpacked(here: Connection, tmp_path: Path) -> None:
    """The bytecode is what runs. A module that does not compile stays, and stops nothing."""
    files = [("a/__init__.py", ""), ("a/b/c.py", "VALUE = 42"), ("broken.py", "def ("), ("text.py", "\0")]
    folder = Path(unpack(here, [wheel(tmp_path / "a.whl", *files)]))
    (folder / "a" / "b" / "c.py").write_text("VALUE = 0")
    program = (sys.executable, "-B", "-c", "import a.b.c; print(a.b.c.VALUE, a.b.c.__spec__.cached)")
    finished = run_job(here, Job({}, program, {"PYTHONPATH": str(folder)}, 60, False), tmp_path / "out")
    value, compiled = finished.stdout.split()
    assert (value, Path(compiled).is_file()) == ("42", True)
    assert (folder / "broken.py").read_text() == "def ("


def test_equal_wheels_are_unpacked_once(here: Connection, tmp_path: Path) -> None:
    a, b = (wheel(tmp_path / f"{name}.whl", (f"{name}.py", name)) for name in "ab")
    folder = Path(unpack(here, [a, b]))
    (folder / "a.py").write_text("still here")
    files = folder.parents[1] / "files"
    for file in files.iterdir():
        file.unlink()
    assert unpack(here, [a, b]) == str(folder)
    assert (folder / "a.py").read_text() == "still here"
    assert list(files.iterdir()) == []  # and nothing is sent again
    other = Path(unpack(here, [a]))
    assert (other != folder, unpacked(other)) == (True, {"a.py": "a"})
    assert sorted(path.name for path in folder.parent.iterdir()) == sorted([folder.name, other.name])
    here.call(clean)
    assert not folder.parents[1].exists()


BAD: dict[str, tuple[tuple[str, ...], int]] = {
    "a way out": (("../x",), FILE),
    "a way out within": (("a/../../x",), FILE),
    "a way out of the data": (("a.data/purelib/../../../x",), FILE),
    "an absolute path": (("/tmp/x",), FILE),
    "an absolute path in the data": (("a.data/purelib//tmp/x",), FILE),
    "a backslash": (("a\\..\\x",), FILE),
    "no name": (("",), FILE),
    "a dot": (("./x",), FILE),
    "a link": (("x",), LINK),
    "a device": (("x",), stat.S_IFCHR << 16),
    "one name twice": (("x", "x"), FILE),
    "a file as a folder": (("x", "x/y"), FILE),
    "a folder as a file": (("x/y", "x"), FILE),
    "a long name": (("y" * 300,), FILE),
}


def refused_by(folder: Path, archive: Path) -> protocol.RequestError:
    """The refusal of the agent's function for an archive in the store of a work folder."""
    name = hashlib.sha256(archive.read_bytes()).hexdigest()
    (folder / "work" / "files").mkdir(parents=True, exist_ok=True)
    archive.rename(folder / "work" / "files" / name)
    with pytest.raises(protocol.RequestError) as caught:
        agent_packages.unpack({"files": [name]}, str(folder / "work"))
    assert list((folder / "work" / "packages").iterdir()) == []
    return caught.value


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(("names", "attributes"), BAD.values(), ids=BAD)
def test_a_wheel_that_leads_out_is_refused(names: tuple[str, ...], attributes: int, tmp_path: Path) -> None:
    bad = wheel(tmp_path / "bad.whl", ("good.py", ""), *((name, "bad") for name in names), attributes=attributes)
    assert refused_by(tmp_path, bad).content["kind"] == "bad_package"
    assert {path.name for path in tmp_path.iterdir()} == {"work"}
    assert not list(tmp_path.rglob("x"))


def test_a_file_that_is_no_wheel_is_refused(here: Connection, tmp_path: Path) -> None:
    good = wheel(tmp_path / "good.whl", ("a.py", "a" * 1000)).read_bytes()
    damaged = bytearray(good)
    damaged[35:45] = bytes(10)
    encrypted = bytearray(good)
    at = encrypted.index(b"PK\x01\x02")
    encrypted[6] |= 1
    encrypted[at + 8] |= 1
    for content in (b"", b"no zip", good[:-30], bytes(damaged), bytes(encrypted)):
        (tmp_path / "bad.whl").write_bytes(content)
        with pytest.raises(Refused) as caught:
            unpack(here, [tmp_path / "bad.whl"])
        assert caught.value.failure.kind == "bad_package"
    assert list((tmp_path / "home" / ".cache" / "edgevit" / "packages").iterdir()) == []


@pytest.mark.parametrize(("limit", "value"), [("MOST_UNPACKED_BYTES", 10**6), ("MOST_UNPACKED_FILES", 2)])
def test_a_wheel_that_grows_is_refused(limit: str, value: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A zip bomb: many zeros, or many files."""
    monkeypatch.setattr(agent_packages, limit, value)
    bomb = wheel(tmp_path / "bomb.whl", *((f"{n}.py", "0" * 400_000) for n in range(3)))
    assert "the wheels have more than" in str(refused_by(tmp_path, bomb))


def test_a_bomb_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    bomb = bytearray(wheel(tmp_path / "bomb.whl", ("a.py", "0" * 1_000_000)).read_bytes())
    at = bomb.index(b"PK\x01\x02")
    bomb[at + 24 : at + 28] = (10).to_bytes(4, "little")
    (tmp_path / "bomb.whl").write_bytes(bytes(bomb))
    assert refused_by(tmp_path, tmp_path / "bomb.whl").content["kind"] == "bad_package"


_WORDS = ("..", ".", "", "a", "b.data", "purelib", "platlib", "scripts", "\\", "\0", "~", "C:", "ä", " ")
_NAMES = st.one_of(st.text(max_size=30), st.lists(st.sampled_from(_WORDS), max_size=6).map("/".join))


@settings(max_examples=50)
@given(_NAMES, st.integers(0, 2**32 - 1))
def test_no_name_leads_out_of_the_folder(name: str, attributes: int) -> None:
    """Whatever an archive holds: a place is a plain path below the folder, or the entry is refused or left out."""
    entry = zipfile.ZipInfo("x")
    entry.filename, entry.external_attr = name, attributes
    try:
        place = agent_packages.place_of(entry)
    except protocol.RequestError:
        return
    assert not stat.S_ISLNK(attributes >> 16)
    if place is not None:
        folder = Path("/target/packages/new")
        assert (folder / place).resolve().is_relative_to(folder)
        assert place not in ("", ".")
        assert not {"..", "", "."} & set(place.split("/"))


@example(b"", 205, 1)  # an offset below 0
@settings(max_examples=30)
@given(st.binary(max_size=200), st.integers(0, 300), st.integers(0, 255))
def test_a_damaged_archive_is_refused_or_unpacked(tail: bytes, at: int, byte: int) -> None:
    """No mutation of an archive is a bug."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/b.py", "content " * 20)
        archive.writestr("c.py", "c")
    mutated = bytearray(content.getvalue())
    mutated[at % len(mutated)] = byte
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "x.whl").write_bytes(bytes(mutated) + tail)
        (Path(folder) / "new").mkdir()
        with suppress(protocol.RequestError):
            agent_packages.Unpacking(str(Path(folder) / "new")).add([str(Path(folder) / "x.whl")])
        assert {path.name for path in Path(folder).iterdir()} == {"x.whl", "new"}


def test_an_answer_about_another_folder_is_an_error(
    here: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = wheel(tmp_path / "good.whl", ("a.py", ""))
    assert here.call(lambda session: session.hello.work_folder)
    ask = here._session.ask_for_json
    monkeypatch.setattr(
        here._session,
        "ask_for_json",
        lambda do, *more, **values: {"folder": "/etc"} if do == "unpack" else ask(do, *more, **values),
    )
    with pytest.raises(TargetError, match="unpacked the packages elsewhere"):
        unpack(here, [good])


def test_parts_of_a_killed_agent_go_when_they_are_old(here: Connection, tmp_path: Path) -> None:
    packages = tmp_path / "home" / ".cache" / "edgevit" / "packages"
    for name in ("0" * 64 + ".partabc", "0" * 64, "mine"):
        (packages / name).mkdir(parents=True)
        (packages / name / "file").write_bytes(b"x" * 100)
    assert all(KEPT.match(name) for name in ("0" * 64 + ".partabc", "0" * 64))
    here.call(lambda session: evict(session, 1000))
    assert len(list(packages.iterdir())) == 3
    os.utime(packages / ("0" * 64 + ".partabc"), (0, 0))
    assert here.call(lambda session: evict(session, 1000)).removed_bytes == 100
    assert sorted(path.name for path in packages.iterdir()) == ["0" * 64, "mine"]
    here.call(clean)
    assert [path.name for path in packages.iterdir()] == ["mine"]


@pytest.mark.slow
def test_numpy_runs_from_its_wheel(here: Connection, tmp_path: Path) -> None:
    """A real wheel, which pip fetches."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", "numpy"]
    if subprocess.run([*command, "-d", str(tmp_path)], capture_output=True, check=False).returncode:
        pytest.skip("needs pip and the network")
    folder = unpack(here, sorted(tmp_path.glob("*.whl")))
    program = (sys.executable, "-S", "-c", "import numpy; print(numpy.arange(5).sum(), numpy.__file__)")
    finished = run_job(here, Job({}, program, {"PYTHONPATH": folder}, 300, False), tmp_path / "out")
    assert finished.stdout == f"10 {folder}/numpy/__init__.py\n", finished.stderr
