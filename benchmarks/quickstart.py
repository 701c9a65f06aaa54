"""The quickstart over several support draws: accuracy, seconds and memory by stage.

    python -m benchmarks.quickstart [--draws 5]

For each draw: top-1 and latency of the INT8 file that ships, of its float ONNX file and of the adapted teacher's, the
sizes of these files, and top-1 of nearest centroid on raw pixels for the same support and the same test images. The
first draw is run in an empty store, as `make quickstart` does, and gives the seconds and the peak memory. Draw 0, the
recipe's own, is left out: its test half was looked at while the recipe was chosen.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.neighbors import NearestCentroid

from benchmarks.common import ROOT, publish, spread
from edgevit.artifacts import Artifact
from edgevit.data import dataset_artifacts, open_dataset
from edgevit.recipe import load_recipe

RECIPE = ROOT / "recipes" / "quickstart.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=5)
    draws = parser.parse_args().draws
    with tempfile.TemporaryDirectory() as folder:
        rows = [_draw(draw, Path(folder)) for draw in range(1, draws + 1)]
    points = 100.0
    above = [(row["top1"]["accuracy/int8"] - row["nearest_centroid_on_pixels"]) * points for row in rows]
    lost = [(row["top1"]["accuracy/student"] - row["top1"]["accuracy/int8"]) * points for row in rows]
    publish(
        "quickstart",
        {
            "draws": rows,
            "int8_points_above_nearest_centroid": {"mean": float(np.mean(above)), **spread(above)},
            "int8_points_below_its_float_model": {"mean": float(np.mean(lost)), **spread(lost)},
            "mean_top1": {name: float(np.mean([row["top1"][name] for row in rows])) for name in rows[0]["top1"]},
        },
    )


def _draw(draw: int, runs: Path) -> dict[str, Any]:
    setting = f"datasets.digits.few_shot.draw={draw}"
    command = [
        str(Path(sys.executable).with_name("edgevit")),
        "run",
        str(RECIPE),
        "--runs",
        str(runs),
        "--set",
        setting,
    ]
    start = time.perf_counter()
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    wall_s = time.perf_counter() - start
    if ended.returncode not in (0, 1):  # 1: a draw may miss the budget
        raise SystemExit(ended.stderr)
    recipe = load_recipe(RECIPE, [setting])
    stages = {stage.id: Artifact.load(runs / recipe.name / stage.id) for stage in recipe.stages}
    return {
        "draw": draw,
        "wall_s": wall_s,
        "meets_budget": ended.returncode == 0,
        "peak_rss_mib_so_far": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**10,
        "stages": {name: _cost(artifact) for name, artifact in stages.items()},
        "top1": {
            name: artifact.metrics["top1"]["value"]
            for name, artifact in stages.items()
            if artifact.kind == "evaluation"
        },
        "p50_ms": {
            name: artifact.metrics["latency_ms"]["p50"]
            for name, artifact in stages.items()
            if artifact.kind == "latency"
        },
        "params": {
            name: artifact.metrics["params"] for name, artifact in stages.items() if artifact.kind == "checkpoint"
        },
        "size_bytes": {
            name: artifact.metrics["size_bytes"] for name, artifact in stages.items() if artifact.kind == "onnx"
        },
        "nearest_centroid_on_pixels": _nearest_centroid(recipe.datasets),
    }


def _cost(artifact: Artifact) -> dict[str, float]:
    """Seconds of a stage, and the largest memory of the process until its end."""
    return {key: artifact.manifest.provenance[key] for key in ("seconds", "peak_rss_mib_so_far")}


def _nearest_centroid(datasets: Any) -> float:
    names = ("digits.support", "digits.test")
    support, test = (open_dataset(dataset) for dataset in dataset_artifacts(datasets, ROOT, names).values())
    pixels = [np.stack([data.image(i).ravel() for i in range(len(data))]).astype(float) for data in (support, test)]
    return float(NearestCentroid().fit(pixels[0], support.labels).score(pixels[1], test.labels))


if __name__ == "__main__":
    main()
