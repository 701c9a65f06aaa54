"""Fresh environments, and commands in them as a newcomer types them: an own Python, an empty folder, an empty home."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import children_cpu_s

LAST_LINES = 6
LONGEST_LINE = 300
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Environment:
    """A virtual environment in WORK/environment, whose commands run in WORK/folder with WORK/home as the home folder.

    Args:
        inputs: paths that stand in commands, by the names that take their places in records. Files that a command
            writes into a folder among them are counted, too.
        variables: environment variables of the commands.
    """

    def __init__(self, work: Path, inputs: Mapping[str, Path], variables: Mapping[str, str] | None = None) -> None:
        self._python = work / "environment"
        self.folder, self._home = work / "folder", work / "home"
        folders = {name.lower(): path for name, path in inputs.items() if path.is_dir()}
        self._watched = {"folder": self.folder, "home": self._home, **folders}
        self._names = {
            str(path): name for name, path in (*inputs.items(), ("WORK", work), ("PYTHON", Path(sys.base_prefix)))
        }
        self._variables = variables or {}
        for empty in (self.folder, self._home):
            shutil.rmtree(empty, ignore_errors=True)
            empty.mkdir(parents=True)

    def install(self, requirements: Sequence[str]) -> dict[str, Any]:
        """`pip install`, timed; an environment that is there already is taken as it is, with its time."""
        record = self._python / "install.json"
        if not record.is_file():
            shutil.rmtree(self._python, ignore_errors=True)
            load, start = os.getloadavg()[0], time.perf_counter()
            subprocess.run([sys.executable, "-m", "venv", self._python], check=True)
            subprocess.run([self.program("python"), "-m", "pip", "install", "-q", *requirements], check=True)
            command = shlex.join(["pip", "install", *(Path(requirement).name for requirement in requirements)])
            record.write_text(
                json.dumps({"command": command, "seconds": time.perf_counter() - start, "load_before": load})
            )
        packages = list(self._python.glob("lib/python*/site-packages/*.dist-info"))
        return {
            **json.loads(record.read_text()),
            "packages": len(packages),
            "bytes": sum(_files(self._python).values()),
        }

    def run(self, command: str, limit_s: float) -> dict[str, Any]:
        """One command line: seconds, exit status (None at the limit), lines of output, and what it wrote."""
        words = shlex.split(command)
        before = {name: _files(folder) for name, folder in self._watched.items()}
        load, cpu_s, start = os.getloadavg()[0], children_cpu_s(), time.perf_counter()
        status, output = self._ended([self.program(words[0]), *words[1:]], limit_s)
        seconds = time.perf_counter() - start
        said = [line for line in ESCAPES.sub("", output).replace("\r", "\n").splitlines() if line.strip()]
        return {
            "command": self._without_paths(command),
            "seconds": seconds,
            "cpu_s": children_cpu_s() - cpu_s,
            "load_before": load,
            "exit_status": status,
            "lines": len(said),
            "last_lines": [self._without_paths(line)[:LONGEST_LINE] for line in said[-LAST_LINES:]],
            "written": {name: _written(folder, before[name]) for name, folder in self._watched.items()},
        }

    def about(self, distribution: str) -> dict[str, str]:
        """Version and license, as the installed package states them."""
        code = (
            "import json, sys; from importlib.metadata import metadata; m = metadata(sys.argv[1]);"
            "print(json.dumps([m['Version'], m['License-Expression'] or m['License'] or '']))"
        )
        said = subprocess.check_output([self.program("python"), "-c", code, distribution], text=True)
        version, license_ = json.loads(said)
        return {"version": version, "license": license_.partition("\n")[0]}

    def program(self, name: str) -> str:
        """The path of a program of this environment."""
        return str(self._python / "bin" / name)

    def remove(self) -> None:
        """Remove the packages; what the commands wrote stays."""
        shutil.rmtree(self._python)

    def _ended(self, words: list[str], limit_s: float) -> tuple[int | None, str]:
        path = f"{self._python / 'bin'}{os.pathsep}{os.environ['PATH']}"
        variables = {**os.environ, **self._variables, "HOME": str(self._home), "PATH": path, "COLUMNS": "120"}
        log = self._home.with_name("output.txt")
        with log.open("w") as opened:
            try:
                status: int | None = subprocess.run(
                    words, cwd=self.folder, env=variables, stdout=opened, stderr=subprocess.STDOUT, timeout=limit_s
                ).returncode
            except subprocess.TimeoutExpired:
                status = None
        return status, log.read_text(errors="replace")

    def _without_paths(self, text: str) -> str:
        for path, name in sorted(self._names.items(), key=lambda item: -len(item[0])):
            text = text.replace(path, name)
        return text


def _files(folder: Path) -> dict[Path, int]:
    return {path: path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink()}


def _written(folder: Path, before: Mapping[Path, int]) -> dict[str, int]:
    new = {path: size for path, size in _files(folder).items() if before.get(path) != size}
    return {"files": len(new), "bytes": sum(new.values())}
