"""Other Pythons of this machine, and pip. Tests that need them skip where they are absent."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def other_python(version: str) -> Path:
    """A Python of this version, such as 3.9: on the path, or pyenv's."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates: list[str | Path | None] = [
        shutil.which(f"python{version}"),
        *sorted(root.glob(f"{version}.*/bin/python")),
    ]
    for python in [Path(candidate) for candidate in candidates if candidate]:
        if subprocess.run([python, "-c", "import venv"], capture_output=True, check=False).returncode == 0:
            return python
    pytest.skip(f"needs a Python {version} (python{version} on the path, or pyenv's)")


def pip(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)


def index_is_reached(folder: Path) -> None:
    """Skip the test where there is no index of packages."""
    answer = pip("download", "-q", "--no-deps", "-d", folder / "probe", "packaging")
    if answer.returncode:
        pytest.skip(f"needs a package index: {answer.stderr.strip().splitlines()[-1]}")
