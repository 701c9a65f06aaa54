"""The programs that ship in bundles, and the environment to run them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).parent
RECORD = "bundle.json"
RUNNER = {  # by their names in a bundle, which edgevit reads in bundles of earlier releases, too
    "infer.py": HERE / "infer.py",
    "preprocess.py": HERE.parent / "data" / "preprocess.py",
    "runtimes.py": HERE.parent / "runtimes" / "loading.py",
    "answers.py": HERE.parent / "graphs" / "class_scores.py",
}
PAGE = HERE / "page"
ENGINE_RUNNER = {
    "engine.py": HERE / "engine.py",
    "tensorrt_loading.py": HERE.parent / "runtimes" / "tensorrt_loading.py",
}
ENROLLING = {"enroll.py": HERE / "enroll.py", "prototypes.py": HERE / "prototypes.py"}


def write_runner(out: Path, programs: Mapping[str, Path]) -> None:
    """Copy programs into one folder, where they find each other."""
    for name, source in programs.items():
        shutil.copyfile(source, out / name)


def environment() -> dict[str, str]:
    """The environment variables without PYTHONPATH, so that a program imports nothing else."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
