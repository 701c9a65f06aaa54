"""`edgevit compare` of a file with a byte-identical copy: how often its interval holds 1, how often it says slower.

    python -m benchmarks.same_file_twice [--runs 100 --duration 1.0 --models test_vit@64 deit_tiny_patch16_224@224]

Every run is a process of its own. Half of them have a neighbour: a process that works and rests by turns of random
length, one for each core. Runs with and without neighbours alternate.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.common import neighbours, publish, spread

EDGEVIT = str(Path(sys.executable).with_name("edgevit"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100, help="of each model with neighbours, and as many without")
    parser.add_argument("--duration", type=float, default=1.0, help="seconds for each model")
    parser.add_argument("--models", nargs="*", default=["test_vit@64", "deit_tiny_patch16_224@224"])
    asked = parser.parse_args()
    rows = {}
    for model in asked.models:
        with TemporaryDirectory() as folder:
            rows[model] = _row(model, Path(folder), asked.runs, asked.duration)
        publish("same_file_twice", {"runs": asked.runs, "duration_s": asked.duration, "models": rows})


def _row(model: str, folder: Path, runs: int, duration_s: float) -> dict[str, Any]:
    name, _, size = model.partition("@")
    file, copy = folder / "model.onnx", folder / "copy.onnx"
    made = ["export", "--model", name, "--image-size", size, "--classes", "10", "--out", str(file)]
    subprocess.run([EDGEVIT, *made], check=True, capture_output=True)
    shutil.copyfile(file, copy)
    answers_of: dict[str, list[dict[str, Any]]] = {"alone": [], "with neighbours": []}
    for _ in range(runs):
        answers_of["alone"].append(_compared(file, copy, duration_s))
        with neighbours(os.cpu_count() or 1):
            answers_of["with neighbours"].append(_compared(file, copy, duration_s))
    return {name: _summary(answers) for name, answers in answers_of.items()}


def _compared(file: Path, copy: Path, duration_s: float) -> dict[str, Any]:
    command = [EDGEVIT, "compare", str(file), str(copy), "--duration", str(duration_s), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    answer = json.loads(done.stdout)
    return {
        **answer["speedup"],
        "p50_ms": answer["model"]["latency_ms"]["p50"],
        "exit": done.returncode,
    }


def _summary(answers: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "interval_holds_1": float(np.mean([answer["low"] <= 1 <= answer["high"] for answer in answers])),
        "exit_1": float(np.mean([answer["exit"] == 1 for answer in answers])),
        "width": spread([answer["high"] / answer["low"] - 1 for answer in answers]),
        "p50_ms": spread([answer["p50_ms"] for answer in answers]),
        "raw": answers,
    }


if __name__ == "__main__":
    main()
