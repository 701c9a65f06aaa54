"""Every text file is read and written in UTF-8, whatever the locale of the machine."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

EDGEVIT = str(Path(sys.executable).with_name("edgevit"))
PACKAGE = Path(__file__).parents[1] / "edgevit"
ENCODING_IS_ARGUMENT = {"read_text": 0, "write_text": 1, "open": 2}


def calls_without_encoding(source: str) -> Iterator[int]:
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or any(keyword.arg in ("encoding", None) for keyword in node.keywords):
            continue
        is_method = isinstance(node.func, ast.Attribute)
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name not in ENCODING_IS_ARGUMENT or (is_method and ast.unparse(node.func).startswith(("os.", "tarfile."))):
            continue
        mode = node.args[0 if is_method else 1] if name == "open" and len(node.args) > (not is_method) else None
        text = ("r", "w", "a")
        if name == "open" and is_method and node.args and not (isinstance(mode, ast.Constant) and mode.value in text):
            continue  # binary, or of something else than a path
        if isinstance(mode, ast.Constant) and "b" in str(mode.value):
            continue
        if len(node.args) <= ENCODING_IS_ARGUMENT[name]:
            yield node.lineno


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("path.read_text()", True),
        ("path.write_text(text)", True),
        ("path.open('w')", True),
        ("path.open(newline='')", True),
        ("open(path)", True),
        ("path.read_text('utf-8')", False),
        ("path.write_text(text, encoding='utf-8')", False),
        ("path.open('rb')", False),
        ("open(path, 'rb')", False),
        ("Image.open(file)", False),
    ],
)
def test_a_missing_encoding_is_found(source: str, found: bool) -> None:
    assert bool([*calls_without_encoding(source)]) is found


def test_no_file_is_opened_in_the_encoding_of_the_locale() -> None:
    found = [
        f"{file.relative_to(PACKAGE)}:{line}"
        for file in sorted(PACKAGE.rglob("*.py"))
        for line in calls_without_encoding(file.read_text(encoding="utf-8"))
    ]
    assert not found


@pytest.mark.parametrize("arguments", [("--help",), ("schema",), ("models", "mobilevit")])
def test_a_terminal_without_utf8_is_printed_to(arguments: tuple[str, ...]) -> None:
    ascii_only = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    answer = subprocess.run([EDGEVIT, *arguments], capture_output=True, env=ascii_only, check=False)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.decode("ascii")
