"""Names of files and classes cannot steer a terminal, wherever edgevit prints them."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import unicodedata
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from edgevit import terminal
from edgevit.artifacts import MANIFEST, FileEntry, Manifest, manifest_text
from edgevit.bundling import write_bundle
from edgevit.cli import app, output
from edgevit.errors import DataError
from edgevit.progress import PlainProgress, RichProgress
from edgevit.terminal import printable, printable_line
from tests.bundling.small_model import small_model

HOSTILE = "a\x1b[31m\x9b2J\x07\u202egnp\udcff\u2028b"  # colour, clear, bell, right to left, a byte, an end of a line
SHOWN = "a\\u001b[31m\\u009b2J\\u0007\\u202egnp\\udcff\\u2028b"
CLASSES = ("[red]ant[/red]", "b\x1b[31mee", "[/]:cat:", "\u202edog")


def harmless(text: str) -> bool:
    return all(one == "\n" or unicodedata.category(one) not in ("Cc", "Cs", "Zl", "Zp") for one in text)


def test_what_steers_a_terminal_is_written_out_and_nothing_else() -> None:
    directions = {"\u061c", "\u200e", "\u200f", *map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A))}
    for code in range(sys.maxunicode + 1):
        steers = (
            unicodedata.category(chr(code)) in ("Cc", "Cs", "Zl", "Zp") or chr(code) in directions or code == 0xFEFF
        )
        assert printable_line(chr(code)) == (f"\\u{code:04x}" if steers else chr(code))
    assert printable_line(HOSTILE) == SHOWN
    assert printable("née\n猫 قطة ✓") == "née\n猫 قطة ✓"


def test_the_bundles_runner_writes_out_the_same() -> None:
    source = (Path(output.__file__).parents[1] / "bundling" / "infer.py").read_text(encoding="utf-8")
    (line,) = [line for line in source.splitlines() if line.startswith("CONTROLS = ")]
    names: dict[str, re.Pattern[str]] = {}
    exec(f"import re\n{line}", names)
    assert names["CONTROLS"].pattern == terminal._CONTROLS.pattern


def test_errors_show_names_in_one_line() -> None:
    error = DataError("it cannot be read", where=Path(f"{HOSTILE}\n"), got="x\n  next: rm", next="mend it")
    assert str(error).splitlines() == [
        f"{SHOWN}\\u000a: it cannot be read",
        "  got: x\\u000a  next: rm",
        "  next: mend it",
    ]


def test_json_stays_json_and_what_people_read_stays_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"née": [HOSTILE, "猫"]}
    output.print_json(value)
    printed = capsys.readouterr().out
    assert json.loads(printed) == value
    assert harmless(printed)
    assert "née" in printed
    assert "猫" in printed


def test_a_table_has_a_line_for_each_row(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(("name", "n"), [(f"x\n{HOSTILE}", 1), ("y", 20)])
    lines = capsys.readouterr().out.splitlines()
    assert [len(line) for line in lines] == [len(lines[1])] * 3
    assert lines[1] == f"x\\u000a{SHOWN}   1"


@pytest.mark.parametrize("name", [HOSTILE, "[red]x[/red]", "[/]", ":cat:", "[link=x]y"])
def test_progress_shows_names_as_they_are(name: str) -> None:
    plain, fancy = io.StringIO(), io.StringIO()
    progress = RichProgress()
    progress.console = Console(file=fancy, force_terminal=True, width=120, highlight=False, markup=False, emoji=False)
    for one in (PlainProgress(plain, every_s=0), progress):
        one.say(f"note: {name}")
        with one.bar(name, 2) as bar:
            bar.advance(2, loss=0.5)
    shown = printable_line(name)
    assert harmless(plain.getvalue())
    assert plain.getvalue().startswith(f"note: {shown}\n    {shown}: 2/2")
    assert f"note: {shown}\n" in fancy.getvalue()
    assert fancy.getvalue().count(shown) >= 2
    assert HOSTILE not in fancy.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, its bundle and an image, with names that would steer a terminal."""
    folder = tmp_path_factory.mktemp("names")
    (folder / "bundle").mkdir()
    write_bundle(small_model(folder / "model", CLASSES), folder / "bundle")
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "p\x1b[2J\nq.png")
    (folder / "broken\x1b[2J.png").write_bytes(b"no image")
    return folder


def test_predict_and_the_bundles_runner_print_names_without_what_steers(folder: Path) -> None:
    images = [str(folder / "p\x1b[2J\nq.png"), str(folder / "broken\x1b[2J.png")]
    ours = CliRunner().invoke(app, ["predict", str(folder / "model" / "model.onnx"), *images, "--top", "4"])
    command = [sys.executable, "-B", str(folder / "bundle" / "infer.py"), *images, "--top", "4"]
    theirs = subprocess.run(command, capture_output=True, text=True, check=False)
    for status, out, err in (
        (ours.exit_code, ours.stdout, ours.stderr),
        (theirs.returncode, theirs.stdout, theirs.stderr),
    ):
        assert status in (1, 2)
        assert harmless(out)
        assert harmless(err)
        assert "p\\u001b[2J\\u000aq.png" in out
        assert all(printable_line(name) in out for name in CLASSES)
        assert "broken\\u001b[2J.png" in err


def test_json_of_predict_and_of_the_bundles_runner_keeps_names(folder: Path) -> None:
    image = str(folder / "p\x1b[2J\nq.png")
    ours = CliRunner().invoke(app, ["predict", str(folder / "model" / "model.onnx"), image, "--top", "4", "--json"])
    command = [sys.executable, "-B", str(folder / "bundle" / "infer.py"), image, "--top", "4", "--json"]
    theirs = subprocess.run(command, capture_output=True, text=True, check=True)
    for printed, answer in ((ours.stdout, json.loads(ours.stdout)[0]), (theirs.stdout, json.loads(theirs.stdout))):
        assert harmless(printed)
        assert answer["image"] == image
        assert {one["label"] for one in answer["labels"]} == set(CLASSES)


def test_a_report_that_is_printed_cannot_steer(tmp_path: Path) -> None:
    files = {"report.json": b"{}", "report.md": b"# report \x1b]0;title\x07\n"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    entries = {
        name: FileEntry(sha256=sha256(content).hexdigest(), size=len(content)) for name, content in files.items()
    }
    key = {"kind": "report", "id": "report", "key": "0", "digest": "1", "stage": "report", "stage_version": 1}
    (tmp_path / MANIFEST).write_text(manifest_text(Manifest.model_validate({**key, "config": {}, "files": entries})))
    answer = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert answer.exit_code == 0
    assert answer.stdout == "# report \\u001b]0;title\\u0007\n\n"


def test_commands_print_by_one_function_alone() -> None:
    """typer.echo, print and rich.print would show names raw."""
    folder = Path(output.__file__).parent
    files = sorted(folder.glob("*.py"))
    assert len(files) >= 10
    for file in files:
        source = file.read_text(encoding="utf-8")
        assert source.count("typer.echo(") == {"output.py": 1, "__init__.py": 1}.get(file.name, 0), file
        assert "secho(" not in source
        assert " print(" not in source or file.name == "__init__.py", file
