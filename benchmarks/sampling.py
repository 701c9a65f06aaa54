"""The cost of sampling a machine while a model is timed there: p50 with the sampler and without it, in turns.

    python -m benchmarks.sampling [--rounds 12]

The worker runs as a process of this machine, as it does on a machine over SSH. Rounds with and without the sampler take
turns. The share of one processor that the sampler takes is measured by the system, for each run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import publish, spread
from edgevit.actions.single_stage import single_stages
from edgevit.artifacts import Artifact
from edgevit.configs import Export, Load
from edgevit.context import Context
from edgevit.profiling import MeasurePlan
from edgevit.runtimes.base import random_images
from edgevit.targets.agent import sampler
from edgevit.targets.shipped import WORKER, WORKER_FILES

DURATION_S = 3.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder, single_stages(Context()) as stages:
        names = tuple(str(index) for index in range(10))
        loaded = stages.make(Load(stage="load", id="model", model="deit_tiny_patch16_224", classes=names))
        model = stages.make(Export(stage="export", id="onnx", model="model"), model=loaded)
        _write_job(model, Path(folder))
        result = _measured(Path(folder), rounds)
    publish("sampling", result)


def _write_job(model: Artifact, folder: Path) -> None:
    """The files of a timing by the worker."""
    for name, file in WORKER_FILES.items():
        shutil.copyfile(file, folder / name)
    shutil.copyfile(model.file("model.onnx"), folder / "model.onnx")
    np.save(folder / "input.npy", random_images(model.io, 1))
    described = {
        "file": "model.onnx",
        "runtime": "onnxruntime",
        "session_options": {},
        "input": model.io.inputs[0].name,
        "outputs": [output.name for output in model.io.outputs],
    }
    plan = asdict(MeasurePlan(duration_s=DURATION_S, min_runs=1))
    request = {
        "do": "measure",
        "threads": 1,
        "model": described,
        "preprocess": None,
        "input": "input.npy",
        "plan": plan,
    }
    content = json.dumps({**request, "preprocess": None, "plan": plan})
    (folder / "request.json").write_text(content, encoding="utf-8")


def _measured(folder: Path, rounds: int) -> dict[str, Any]:
    worker, sampled = [sys.executable, "-B", WORKER], [sys.executable, "-B", sampler.__file__]
    commands = {"plain": worker, "sampled": [*sampled, *worker]}
    p50_ms: dict[str, list[float]] = {name: [] for name in commands}
    shares = []
    for number in range(rounds):
        for name in sorted(commands, reverse=bool(number % 2)):
            subprocess.run(commands[name], cwd=folder, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
            timed = json.loads((folder / "result.json").read_text(encoding="utf-8"))
            p50_ms[name].append(float(np.median(timed["samples_ms"])))
        telemetry = json.loads((folder / sampler.TELEMETRY).read_text(encoding="utf-8"))
        shares.append(telemetry["sampler_cpu_s"] / telemetry["seconds"])
    ratios = np.array(p50_ms["sampled"]) / np.array(p50_ms["plain"])
    logs = np.log(ratios)
    half = 2.2 * logs.std(ddof=1) / len(logs) ** 0.5  # Student's t at 95%, about 12 rounds
    return {
        "interval_s": sampler.INTERVAL_S,
        "plain_p50_ms": spread(p50_ms["plain"]),
        "sampled_p50_ms": spread(p50_ms["sampled"]),
        "mean_ratio": {
            "value": np.exp(logs.mean()),
            "low": np.exp(logs.mean() - half),
            "high": np.exp(logs.mean() + half),
        },
        "sampler_share_of_one_processor": spread(shares),
    }


if __name__ == "__main__":
    main()
