"""Every model of the catalogue on this CPU: exported, quantized for ONNX Runtime and OpenVINO, and timed against float.

    python -m benchmarks.zoo [--models NAME …]

Each at its default size with 1,000 classes and random weights (closeness on trained weights is in compression_peers),
calibrated on 32 random images. `quantize` times every form and ships the fastest one or the float model; what it
shipped is then timed again here, in turns with the float model in the same runtime and in ONNX Runtime, one thread,
batch 1. Where float ships, that compares two sessions of one graph, and shows how far two sessions may differ
(`same_file_twice`). A run that was stopped goes on. About an hour on two cores with nothing else on them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.common import models_before, publish
from edgevit.actions.single_stage import SingleStages, single_stages
from edgevit.artifacts import Artifact
from edgevit.configs import Export, Load, Npz, Quantize
from edgevit.context import Context
from edgevit.data import dataset_artifacts
from edgevit.errors import EdgevitError
from edgevit.model_file import json_of_options
from edgevit.models import catalogue
from edgevit.profiling import MeasurePlan
from edgevit.runtimes.base import SessionOptions, for_runtime, random_images
from edgevit.runtimes.sessions import open_session
from edgevit.targets import target_for

RUNTIMES = ("onnxruntime", "openvino")
IMAGES = 96  # 32 to calibrate on, 64 to compare on
PLAN = MeasurePlan(warmup_s=0.3, duration_s=1.5, min_runs=30)
FLOAT = "float32"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=[entry.name for entry in catalogue.read()])
    parser.add_argument("--again", action="store_true", help="also those that the results hold already")
    asked = parser.parse_args()
    rows = {} if asked.again else models_before("zoo")
    for name in asked.models:
        if name not in rows:
            with single_stages(Context()) as stages, TemporaryDirectory() as folder:
                rows[name] = _row(name, stages, Path(folder))
            publish("zoo", {"summary": _summary(rows), "models": rows})


def _row(name: str, stages: SingleStages, folder: Path) -> dict[str, Any]:
    size = next(entry.default_size for entry in catalogue.read() if entry.name == name)
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, size // 8, size // 8, 3), dtype=np.uint8)
    np.savez(folder / "images.npz", images=pixels, labels=np.arange(IMAGES) % 2)
    config = Npz(source="npz", path=str(folder / "images.npz"))
    dataset = dataset_artifacts({"images": config}, folder, ["images"])["images"]
    row: dict[str, Any] = {"image_size": size}
    try:
        start = time.perf_counter()
        loaded = stages.make(Load(stage="load", id="checkpoint", model=name, image_size=size))
        exported = stages.make(Export(stage="export", id="onnx", model="checkpoint"), model=loaded)
        row["export"] = {"seconds": time.perf_counter() - start, "exporter": exported.metrics["exporter"]}
        for runtime in RUNTIMES:
            row[runtime] = _shipped(exported, dataset, runtime, stages)
    except EdgevitError as error:
        row["failed"] = str(error)
    return row


def _shipped(exported: Artifact, dataset: Artifact, runtime: str, stages: SingleStages) -> dict[str, Any]:
    start = time.perf_counter()
    config = Quantize.model_validate(
        {
            "stage": "quantize",
            "id": f"int8-{runtime}",
            "model": "onnx",
            "calibration": "images",
            "calibration_images": 32,
            "runtime": runtime,
        }
    )
    made = stages.make(config, model=exported, calibration=dataset)
    seconds = time.perf_counter() - start
    there = for_runtime(exported, runtime)
    session, reference = (open_session(model, SessionOptions()) for model in (made, exported))
    images = random_images(exported.io, 16, seed=1)
    answers = [
        opened.infer({opened.spec.inputs[0].name: images})["logits"].argmax(-1) for opened in (session, reference)
    ]
    race = partial(target_for("local-cpu", Context()).race, options=SessionOptions(), plan=PLAN)
    (over_onnxruntime,), (over_float,) = race((exported, made)), race((there, made))
    return {
        "seconds": seconds,
        "precision": made.metrics["precision"],
        "form": made.metrics["form"],
        "session_options": json_of_options(made.model_file.options),
        "kept_float": made.metrics["kept_float"],
        "sqnr_db": made.metrics.get("sqnr_db"),
        "top1_agreement": float(np.mean(answers[0] == answers[1])),
        "size_bytes": made.metrics["size_bytes"],
        "float_size_bytes": exported.metrics["size_bytes"],
        "forms": made.metrics["forms"],
        "float_p50_ms": over_float.a.percentile_ms(50),
        "p50_ms": over_float.b.percentile_ms(50),
        "speedup": {"value": over_float.ratio, **vars(over_float.interval)},
        "speedup_over_onnxruntime_float": {"value": over_onnxruntime.ratio, **vars(over_onnxruntime.interval)},
    }


def _summary(rows: dict[str, Any]) -> dict[str, Any]:
    passed = {name: row for name, row in rows.items() if "failed" not in row}
    summary: dict[str, Any] = {"models": len(rows), "passed": len(passed), "failed": sorted(set(rows) - set(passed))}
    for runtime in RUNTIMES:
        files = {name: row[runtime] for name, row in passed.items()}
        summary[runtime] = {
            "shipped": {
                precision: sum(row["precision"] == precision for row in files.values())
                for precision in sorted({row["precision"] for row in files.values()})
            },
            "slower_than_float": sorted(
                name for name, row in files.items() if row["form"] != FLOAT and row["speedup"]["high"] < 1
            ),
            "same_file_twice": sorted(row["speedup"]["value"] for row in files.values() if row["form"] == FLOAT),
            "median_speedup": statistics.median(row["speedup"]["value"] for row in files.values()) if files else None,
            "median_speedup_over_onnxruntime_float": statistics.median(
                row["speedup_over_onnxruntime_float"]["value"] for row in files.values()
            )
            if files
            else None,
        }
    return summary


if __name__ == "__main__":
    main()
