"""Where, when and with which versions something was made. No package is imported to learn its version."""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from edgevit import __version__
from edgevit.artifacts import Json

PACKAGES = ("torch", "torchvision", "timm", "onnx", "onnxruntime", "onnxscript", "numpy", "pillow", "scikit-learn")


def provenance() -> Json:
    """Versions, machine, git commit of the current folder, and the time (UTC)."""
    return {
        "edgevit": __version__,
        "python": platform.python_version(),
        "packages": {name: version_of(name) for name in PACKAGES},
        "machine": platform.machine(),
        "system": platform.platform(),
        "git_commit": _git_commit(Path.cwd()),
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def version_of(package: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@cache
def _git_commit(folder: Path) -> str | None:
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None
