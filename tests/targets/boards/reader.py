"""Reads a stand-in board as an agent does: its files below a root, its programs by a PATH of their own."""

from __future__ import annotations

import glob
import json
import subprocess
from itertools import islice
from pathlib import Path
from typing import Any

from edgevit.targets.boards import PROBED_COMMANDS, PROBED_FILES, Probe, ProbedCommand, probe_from_json
from tests.targets.standin import STANDINS, BuiltStandin, Standin, build


def read_probe(name: str, folder: Path) -> Probe:
    """The probe of a stand-in that is built into a folder. It goes through JSON, as from another machine."""
    built = build(STANDINS[name], folder)
    return probe_from_json(json.loads(json.dumps(read(built, STANDINS[name]))), name)


def read(built: BuiltStandin, standin: Standin) -> dict[str, Any]:
    answers = {command.name: _run(command, built) for command in PROBED_COMMANDS}
    return {
        "files": _files(built.root),
        "commands": {name: answer for name, answer in answers.items() if answer},
        "system": _system(standin),
    }


def _files(root: Path) -> dict[str, str]:
    paths = (path for pattern in PROBED_FILES for path in glob.glob(f"{root}{pattern}"))
    return {path.removeprefix(str(root)): Path(path).read_text() for path in paths}


def _run(command: ProbedCommand, built: BuiltStandin) -> dict[str, Any] | None:
    """The answer. A program that never ends is stopped after two lines; a real reader stops it after its timeout."""
    program = built.path / command.arguments[0]
    if "/" in command.arguments[0] or not program.exists():
        return None
    with subprocess.Popen([program, *command.arguments[1:]], stdout=subprocess.PIPE, text=True, env={}) as process:
        lines = list(islice(process.stdout, 2 if command.arguments[0] == "tegrastats" else None))
        if command.arguments[0] == "tegrastats":
            process.kill()
    return {"status": None if process.returncode < 0 else process.returncode, "stdout": "".join(lines), "stderr": ""}


def _system(standin: Standin) -> dict[str, Any]:
    memory = int(standin.memory_gib * 2**30)
    return {
        "machine": standin.machine,
        "system": "Linux",
        "release": "5.15.0-stand-in",
        "python": standin.python,
        "executable": "/usr/bin/python3",
        "cpus": 4,
        "memory_bytes": memory,
        "memory_free_bytes": memory // 2,
        "disk_free_bytes": 20 * 2**30,
        "work_folder": "/home/user/.cache/edgevit",
        "packages": {"tensorrt": standin.module} if standin.module else {},
        "libc": standin.libc,
        "user": "user",
        "is_root": False,
    }
