"""Builds a stand-in board as a folder: its files below `root`, its programs in a folder for PATH."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.targets.standin.boards import Standin
from tests.targets.standin.trtexec.settings import LOADED, TAKES_TIME, TrtexecSettings, Variant

INTERVAL_S = 0.1
STATUS_OF_REFUSAL = 1
TESTS = Path(__file__).parents[3]
MARK = ("etc/edgevit-stand-in", "Programs play this board: nothing that they say was measured.\n")


@dataclass(frozen=True)
class BuiltStandin:
    """A stand-in on disk.

    Attributes:
        root: the folder below which the board's files lie: `root / "proc/device-tree/model"`.
        path: the folder with its programs.
    """

    root: Path
    path: Path

    def vary(self, variant: Variant, node: str = "") -> None:
        """From now on, trtexec behaves so. The variants `wrong-…` that begin at a node need its name."""
        self.variant.write_text(f"{variant} {node}".strip())

    def take_time(self) -> None:
        """From now on, a timing by trtexec takes as long as it says."""
        (self.root / TAKES_TIME).touch()

    @property
    def settings(self) -> Path:
        """What trtexec and TensorRT's module are."""
        return self.root / "settings-of-trtexec.json"

    @property
    def variant(self) -> Path:
        return self.root / "variant-of-trtexec"


def build(standin: Standin, folder: Path) -> BuiltStandin:
    """Write the stand-in into an empty folder."""
    root, programs = folder / "root", folder / "programs"
    programs.mkdir(parents=True)
    (root / "tmp").mkdir(parents=True)  # where the agent keeps the machine's lock
    for name, text in (MARK, *standin.files.items()):
        file = root / name.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    built = BuiltStandin(root, programs)
    for name, answer in standin.answers.items():
        status = STATUS_OF_REFUSAL if answer.startswith("Error") else 0
        body = f"cat <<'END'\n{answer}END\nexit {status}\n"
        if name == "trtexec" and standin.trtexec:
            body = _trtexec(body, standin.trtexec, built)
        _write_program(programs / name, body)
    if standin.tegrastats:
        _write_program(programs / "tegrastats", _tegrastats(standin, root))
    return built


def _tegrastats(standin: Standin, root: Path) -> str:
    """A script that prints the lines again and again. If the board throttles, a counter rises with each line."""
    rise = ""
    if standin.counter:
        file = shlex.quote(str(root / standin.counter.lstrip("/")))
        rise = f"read count < {file}; echo $((count + 1)) > {file}.new; /bin/mv {file}.new {file}; "
    lines = "".join(f"{rise}echo {shlex.quote(line)}; /bin/sleep {INTERVAL_S}\n" for line in standin.tegrastats)
    if standin.loaded:
        file = shlex.quote(str(root / LOADED))
        lines = f"if [ -e {file} ]; then echo {shlex.quote(standin.loaded)}; /bin/sleep {INTERVAL_S}; else\n{lines}fi\n"
    return f"while :; do\n{lines}done\n"


def _trtexec(help_body: str, settings: TrtexecSettings, built: BuiltStandin) -> str:
    """A script that answers --help at once, and runs the Python program for all else."""
    file = built.settings
    settings.write(file)
    command = [sys.executable, "-B", "-m", "tests.targets.standin.trtexec", str(file), str(built.variant)]
    run = f'PYTHONPATH={shlex.quote(str(TESTS))} exec {shlex.join(command)} "$0" "$@"'
    return f'if [ "$1" != --help ]; then\n{run}\nfi\n{help_body}'


def _write_program(file: Path, body: str) -> None:
    file.write_text(f"#!/bin/sh\n{body.replace('cat <<', '/bin/cat <<')}")
    file.chmod(0o755)
