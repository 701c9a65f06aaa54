"""`edgevit profile` on a quiet machine and beside a neighbour: is the quiet p50 covered, or the latency invalid?

    python -m benchmarks.profile_disturbed [--rounds 18 --duration 2 --model deit_tiny_patch16_224]

The machine has to be quiet otherwise. Every profile is a process of its own and is not repeated (`--retry 0`). The
neighbour is one process that works and rests by turns of random length: up to 0.2 s, or up to 2 s. Quiet profiles and
profiles beside it alternate. The quiet truth is the median of the quiet p50s.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.common import neighbours, publish, spread

EDGEVIT = str(Path(sys.executable).with_name("edgevit"))
LONGEST_TURNS_S = {"alone": None, "beside turns of 0.2 s": 0.2, "beside turns of 2 s": 2.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=18, help="profiles of each kind")
    parser.add_argument("--duration", type=float, default=2.0, help="seconds that are measured")
    parser.add_argument("--model", default="deit_tiny_patch16_224")
    asked = parser.parse_args()
    latencies: dict[str, list[dict[str, Any]]] = {name: [] for name in LONGEST_TURNS_S}
    with TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        made = ["export", "--model", asked.model, "--classes", "10", "--out", str(file)]
        subprocess.run([EDGEVIT, *made], check=True, capture_output=True)
        for _ in range(asked.rounds):
            for name, longest_s in LONGEST_TURNS_S.items():
                with neighbours(1, longest_s) if longest_s else nullcontext():
                    latencies[name].append(_profiled(file, asked.duration))
    truth_ms = statistics.median(latency["p50"] for latency in latencies["alone"])
    rows = {name: _summary(found, truth_ms) for name, found in latencies.items()}
    publish("profile_disturbed", {"model": asked.model, "duration_s": asked.duration, "profiles": rows})


def _profiled(file: Path, duration_s: float) -> dict[str, Any]:
    command = [EDGEVIT, "profile", str(file), "--duration", str(duration_s), "--retry", "0", "--json"]
    answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    latency: dict[str, Any] = answer["latency_ms"]
    return latency


def _summary(latencies: list[dict[str, Any]], truth_ms: float) -> dict[str, Any]:
    covers = np.array([latency["p50_low"] <= truth_ms <= latency["p50_high"] for latency in latencies])
    invalid = np.array([bool(latency["invalid"]) for latency in latencies])
    return {
        "invalid": float(invalid.mean()),
        "covers_the_quiet_p50": float(covers.mean()),
        "covers_or_is_invalid": float((covers | invalid).mean()),
        "p50_over_quiet": spread([latency["p50"] / truth_ms for latency in latencies]),
        "raw": latencies,
    }


if __name__ == "__main__":
    main()
