"""Builds a stand-in board as a folder: its files below `root`, its programs in a folder for PATH."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from tests.targets.standin.boards import Standin

INTERVAL_S = 0.1
STATUS_OF_REFUSAL = 1


@dataclass(frozen=True)
class BuiltStandin:
    """A stand-in on disk.

    Attributes:
        root: the folder below which the board's files lie: `root / "proc/device-tree/model"`.
        path: the folder with its programs.
    """

    root: Path
    path: Path


def build(standin: Standin, folder: Path) -> BuiltStandin:
    """Write the stand-in into an empty folder."""
    root, programs = folder / "root", folder / "programs"
    programs.mkdir(parents=True)
    root.mkdir()
    for name, text in standin.files.items():
        file = root / name.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    for name, answer in standin.answers.items():
        status = STATUS_OF_REFUSAL if answer.startswith("Error") else 0
        _write_program(programs / name, f"cat <<'END'\n{answer}END\nexit {status}\n")
    if standin.tegrastats:
        lines = "".join(f"echo {shlex.quote(line)}; /bin/sleep {INTERVAL_S}\n" for line in standin.tegrastats)
        _write_program(programs / "tegrastats", f"while :; do\n{lines}done\n")
    return BuiltStandin(root, programs)


def _write_program(file: Path, body: str) -> None:
    file.write_text(f"#!/bin/sh\n{body.replace('cat <<', '/bin/cat <<')}")
    file.chmod(0o755)
