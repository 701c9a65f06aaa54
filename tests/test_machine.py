"""What the machine refuses, full disks above all: said by the right name, without a traceback, nothing half-written."""

from __future__ import annotations

import io
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from edgevit.artifacts import Contents
from edgevit.cli import main
from edgevit.cli.machine import explained
from edgevit.cli.output import write_text_whole
from edgevit.configs import Load
from edgevit.disks import ABANDONED_S, PART, whole_or_not_at_all
from edgevit.errors import ArtifactError
from edgevit.store import Store, ingredients
from tests.checking.graphs import classifier

EDGEVIT = str(Path(sys.executable).with_name("edgevit"))
ROOM_BYTES = 2 * 4096


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and a few images."""
    folder = tmp_path_factory.mktemp("machine")
    onnx.save(classifier(), folder / "model.onnx")
    rng = np.random.default_rng(0)
    for index in range(4):
        home = folder / "photos" / "ab"[index % 2]
        home.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(home / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A disk of its own, with room for 8 kB."""
    disk = tmp_path_factory.mktemp("disk")
    mount = shutil.which("mount")
    command = [mount or "", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        with suppress(OSError), (disk / "fill").open("wb", buffering=0) as fill:
            while True:
                fill.write(bytes(4096))
        os.truncate(disk / "fill", (disk / "fill").stat().st_size - ROOM_BYTES)
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def answer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What a command that fails says on stderr; exit status 2 and no traceback."""
    monkeypatch.setattr(sys, "argv", ["edgevit", *map(str, arguments)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 2, said
    assert "Traceback" not in said
    return said


COMMANDS = {
    "compile": ("compile", "model.onnx", "--out", "OUT"),
    "describe": ("describe", "model.onnx", "--mean", "0.5", "0.5", "0.5", "--out", "OUT"),
    "inspect": ("inspect", "model.onnx", "--html", "OUT"),
    "bundle": ("bundle", "model.onnx", "--out", "OUT"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk_of_out_is_named_and_keeps_what_was_there(
    command: str, folder: Path, full: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    out = full / "out"
    if command != "bundle":
        out.write_text("before")
    said = answer(monkeypatch, capsys, *(str(out) if one == "OUT" else one for one in COMMANDS[command]))
    assert f"error: {out}: the disk is full" in said
    assert sorted(path.name for path in full.iterdir()) == ["fill", *(["out"] if command != "bundle" else [])]
    if command != "bundle":
        assert out.read_text() == "before"
        out.unlink()


@pytest.mark.parametrize("command", ["compile", "bundle", "check"])
def test_a_full_disk_of_tmpdir_is_named(
    command: str, folder: Path, full: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(tempfile, "tempdir", str(full))
    words = COMMANDS.get(command, ("check", "model.onnx", "--runtime", "onnxruntime"))
    said = answer(monkeypatch, capsys, *("none" if one == "OUT" else one for one in words))
    assert f"error: {full}" in said
    assert "the disk is full" in said
    assert "set TMPDIR" in said
    assert not (folder / "none").exists()
    assert [path.name for path in full.iterdir()] == ["fill"]


def test_a_full_disk_of_the_store_is_named(full: Path) -> None:
    store, config = Store(full / "store"), Load(stage="load", id="model", model="resnet18")

    def write(out: Path, work: Path) -> Contents:
        with (out / "weights").open("wb") as file:  # Python does not say which file a failed write was to
            file.write(bytes(1_000_000))
        return Contents(kind="checkpoint")

    with pytest.raises(OSError) as caught:
        store.make(config, {}, ingredients(config, {}, None, None), write)
    shutil.rmtree(store.root)
    assert f"{store.root}: the disk is full" in str(explained(caught.value))


def test_a_failed_write_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    write_text_whole(out, "before")

    def fails() -> None:
        with whole_or_not_at_all(out) as part:
            part.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert out.read_text() == "before"
    write_text_whole(out, "after")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"page.html": "after"}


def test_two_that_write_one_folder_do_not_meet(tmp_path: Path) -> None:
    out = tmp_path / "bundle"

    def write(who: str, meanwhile: Callable[[], None] = lambda: None) -> None:
        with whole_or_not_at_all(out) as part:
            part.mkdir()
            (part / "of").write_text(who)
            meanwhile()

    with pytest.raises(ArtifactError, match="the folder is already there"):
        write("second", meanwhile=lambda: write("first"))
    assert (out / "of").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.slow
def test_two_bundles_at_once_are_one_whole_bundle(folder: Path, tmp_path: Path) -> None:
    command = [EDGEVIT, "bundle", str(folder / "model.onnx"), "--out", str(tmp_path / "bundle")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [one.communicate()[1] for one in both]
    assert sorted(one.returncode for one in both) == [0, 2]
    assert sum("the folder is already there" in one for one in said) == 1
    subprocess.run([sys.executable, str(tmp_path / "bundle" / "infer.py"), "--verify"], check=True, capture_output=True)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_what_a_killed_command_left_is_removed_after_an_hour(tmp_path: Path) -> None:
    old, new = tmp_path / f"{PART}old", tmp_path / f"{PART}new"
    for left in (old, new):
        left.mkdir()
        (left / "half").write_text("half")
    os.utime(old, (0, time.time() - ABANDONED_S - 1))
    write_text_whole(tmp_path / "page.html", "page")
    assert (old.exists(), new.exists()) == (False, True)


def limited(bytes_: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_AS, (bytes_, bytes_))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, address space has no limit")
@pytest.mark.parametrize(
    ("mib", "arguments"),
    [(220, "predict model.onnx photos"), (1500, "export --model test_vit --classes 4 --out e.onnx")],
    ids=["predict", "export"],
)
def test_too_little_memory_is_said(mib: int, arguments: str, folder: Path) -> None:
    command = [EDGEVIT, *arguments.split()]
    ended = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, preexec_fn=limited(mib * 2**20)
    )
    assert "Traceback" not in ended.stderr
    assert ended.returncode in (0, 2), ended.stderr
    assert not ended.returncode or "there is not enough memory" in ended.stderr


def test_errors_of_the_machine_are_explained() -> None:
    memory = (MemoryError(), RuntimeError("can't start new thread"), ImportError("x.so: failed to map segment from …"))
    assert all("not enough memory" in str(explained(error)) for error in memory)
    assert explained(RuntimeError("a bug")) is None
    assert explained(ValueError("a bug")) is None
    assert explained(OSError(5, "Input/output error", "a.png")) is not None
    buffer = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with pytest.raises(UnicodeEncodeError) as caught:
        buffer.write("é")
    said = explained(caught.value)
    assert (said is None) == sys.getfilesystemencoding().lower().startswith("utf")


def test_a_working_folder_that_is_gone_is_said(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    script = f"rmdir {gone}; exec {EDGEVIT} init photos"
    ended = subprocess.run(["sh", "-c", script], cwd=gone, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: the working folder was removed")


@pytest.mark.parametrize(
    "command", ["--version >&-", "schema >&-", "schema <&- >&- 2>&-", "describe {model} --out {out} 2>&-"]
)
def test_a_closed_stream_is_no_error(command: str, folder: Path, tmp_path: Path) -> None:
    words = command.format(model=folder / "model.onnx", out=tmp_path / "own.onnx")
    ended = subprocess.run(["sh", "-c", f"{EDGEVIT} {words}"], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert not ended.stderr


@pytest.mark.parametrize("arguments", ["schema", "predict model.onnx MANY"])
def test_a_reader_that_has_seen_enough_ends_it_without_a_word(arguments: str, folder: Path) -> None:
    words = arguments.replace("MANY", " ".join(["photos"] * 200)).split()
    with subprocess.Popen([EDGEVIT, *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        said = process.stderr.read().decode()
    assert process.returncode == 0, said
    assert "Traceback" not in said
    assert "BrokenPipe" not in said
