"""`edgevit compare` of a file with byte-identical copies: how often its intervals hold 1, how often it says slower.

    python -m benchmarks.same_file_twice [--runs 100 --duration 1.0 --models test_vit@64 deit_tiny_patch16_224@224]
    python -m benchmarks.same_file_twice --copies 3 --out same_file_four_times

With several copies, all intervals of a comparison have to hold 1: they hold together with 95% confidence.
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
from collections.abc import Sequence
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
    parser.add_argument("--copies", type=int, default=1, help="that are compared with the file")
    parser.add_argument("--out", default="same_file_twice", help="the name of the results")
    asked = parser.parse_args()
    rows = {}
    for model in asked.models:
        with TemporaryDirectory() as folder:
            rows[model] = _row(model, Path(folder), asked)
        settings = {"runs": asked.runs, "duration_s": asked.duration, "copies": asked.copies}
        publish(asked.out, {**settings, "models": rows})


def _row(model: str, folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    name, _, size = model.partition("@")
    file, copies = folder / "model.onnx", [folder / f"copy_{index}.onnx" for index in range(asked.copies)]
    made = ["export", "--model", name, "--image-size", size, "--classes", "10", "--out", str(file)]
    subprocess.run([EDGEVIT, *made], check=True, capture_output=True)
    for copy in copies:
        shutil.copyfile(file, copy)
    answers_of: dict[str, list[dict[str, Any]]] = {"alone": [], "with neighbours": []}
    for _ in range(asked.runs):
        answers_of["alone"].append(_compared(file, copies, asked.duration))
        with neighbours(os.cpu_count() or 1):
            answers_of["with neighbours"].append(_compared(file, copies, asked.duration))
    return {name: _summary(answers) for name, answers in answers_of.items()}


def _compared(file: Path, copies: Sequence[Path], duration_s: float) -> dict[str, Any]:
    command = [EDGEVIT, "compare", str(file), *map(str, copies), "--duration", str(duration_s), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    answer = json.loads(done.stdout)
    return {
        "speedups": [other["speedup"] for other in answer.get("others", [answer])],
        "p50_ms": answer["model"]["latency_ms"]["p50"],
        "exit": done.returncode,
    }


def _summary(answers: list[dict[str, Any]]) -> dict[str, Any]:
    speedups = [answer["speedups"] for answer in answers]
    return {
        "interval_holds_1": float(np.mean([all(one["low"] <= 1 <= one["high"] for one in of) for of in speedups])),
        "exit_1": float(np.mean([answer["exit"] == 1 for answer in answers])),
        "width": spread([one["high"] / one["low"] - 1 for of in speedups for one in of]),
        "p50_ms": spread([answer["p50_ms"] for answer in answers]),
        "raw": answers,
    }


if __name__ == "__main__":
    main()
