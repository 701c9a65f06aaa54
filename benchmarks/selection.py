"""init's latencies against those of the deployed model, and its choice for eight budgets.

    python -m benchmarks.selection [--students 12] [--budgets 0.5 1 2 5 10 20 30 50] [--table]

Students: of the shortlist, evenly spaced. Predicted: the timing that init makes of an untrained student. Deployed: the
stages load, export, quantize and profile, as a recipe of init runs them, also with random weights. Both are on one
thread, batch 1.

Budgets: the student that init chooses, deployed by the stages, and the seconds that init's timings take, with nothing
timed before. Each larger student of the shortlist that init did not time, up to three times the expected latency, is
timed too, to see whether one was left out that is within the budget.

`--table` writes edgevit/selection/measured.csv from results/zoo.json, and measures nothing. About half an hour on two
cores with nothing else on them.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.common import RESULTS, publish, spread
from edgevit.actions.single_stage import single_stages
from edgevit.actions.student_choice import deployed_form
from edgevit.artifacts import Artifact
from edgevit.configs import Load, Npz
from edgevit.context import Context
from edgevit.data import dataset_artifacts
from edgevit.selection.candidates import MEASURED_FILE, Candidate, Measured, shortlist
from edgevit.selection.choice import ROOM, most_capable
from edgevit.selection.kept import timed
from edgevit.selection.records import Student, Timing

CLASSES = 10
IMAGES = 96
BUDGETS_MS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 50.0)
CLOSE = 0.15  # the largest difference between predicted and deployed latency, as a share


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--students", type=int, default=12)
    parser.add_argument("--budgets", type=float, nargs="*", default=BUDGETS_MS)
    parser.add_argument("--table", action="store_true", help="write measured.csv from zoo.json, and stop")
    asked = parser.parse_args()
    if asked.table:
        _write_table()
        return
    with _empty_cache():
        known: dict[Candidate, dict[str, Any]] = {}
        places = np.linspace(0, len(shortlist()) - 1, asked.students).round().astype(int).tolist()
        students = [_student_row(shortlist()[place], known) for place in dict.fromkeys(places)]
        budgets = []
        for budget_ms in asked.budgets:
            budgets.append(_budget_row(budget_ms, known))
            publish("selection", {"summary": _summary(students, budgets), "students": students, "budgets": budgets})


@contextmanager
def _empty_cache() -> Iterator[None]:
    """Nothing that was timed before is used inside."""
    before = os.environ.get("EDGEVIT_CACHE")
    with TemporaryDirectory() as folder:
        os.environ["EDGEVIT_CACHE"] = folder
        yield
    if before is None:
        del os.environ["EDGEVIT_CACHE"]
    else:
        os.environ["EDGEVIT_CACHE"] = before


def _time(candidate: Candidate) -> Timing:
    student = Student(model=candidate.model, image_size=candidate.image_size, num_classes=CLASSES)
    return timed(student, deployed_form("local-cpu"), Context())


def _student_row(candidate: Candidate, known: dict[Candidate, dict[str, Any]]) -> dict[str, Any]:
    timing = _time(candidate)
    deployed = _deployed(candidate, known)
    return {
        "student": str(candidate),
        "macs": timing.macs,
        "predicted": timing.model_dump(mode="json"),
        "deployed": deployed,
        "deployed_over_predicted": deployed["p50"] / timing.p50_ms,
    }


def _budget_row(budget_ms: float, known: dict[Candidate, dict[str, Any]]) -> dict[str, Any]:
    start = time.monotonic()
    with _empty_cache():
        choice = most_capable(shortlist(), budget_ms, _time)
    row: dict[str, Any] = {
        "budget_ms": budget_ms,
        "timings_s": time.monotonic() - start,
        "timed": {str(candidate): timing.model_dump(mode="json") for candidate, timing in choice.timings.items()},
        "student": None if choice.best is None else str(choice.best),
        "least_budget_ms": choice.least_budget_ms,
    }
    if choice.best is None:
        return row
    best = choice.best
    deployed = _deployed(best, known)
    larger = [
        candidate
        for candidate in shortlist()
        if best.macs < candidate.macs
        and candidate.expected_ms < 3 * best.expected_ms
        and candidate not in choice.timings
    ]
    left_out = [str(candidate) for candidate in larger if _time(candidate).p50_high_ms <= ROOM * budget_ms]
    return {**row, "deployed": deployed, "meets_budget": deployed["p50"] <= budget_ms, "left_out_within": left_out}


def _deployed(candidate: Candidate, known: dict[Candidate, dict[str, Any]]) -> dict[str, Any]:
    """The latency of a student by the stages of a recipe; `known` keeps it."""
    if candidate in known:
        return known[candidate]
    form = deployed_form("local-cpu")
    assert form.export
    assert form.quantize
    with single_stages(Context()) as stages, TemporaryDirectory() as folder:
        load = Load(stage="load", id="student", model=candidate.model, image_size=candidate.image_size, num_classes=10)
        student = stages.make(load)
        onnx = stages.make(form.export, model=student)
        int8 = stages.make(form.quantize, model=onnx, calibration=_images(candidate.image_size, Path(folder)))
        latency = stages.make(form.profile, model=int8)
    known[candidate] = {**latency.metrics["latency_ms"], "form": int8.metrics["form"]}
    return known[candidate]


def _images(size: int, folder: Path) -> Artifact:
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, size // 8, size // 8, 3), dtype=np.uint8)
    np.savez(folder / "images.npz", images=pixels, labels=np.arange(IMAGES) % 2)
    config = Npz(source="npz", path=str(folder / "images.npz"))
    return dataset_artifacts({"images": config}, folder, ["images"])["images"]


def _summary(students: list[dict[str, Any]], budgets: list[dict[str, Any]]) -> dict[str, Any]:
    ratios = [row["deployed_over_predicted"] for row in students]
    met = [row for row in budgets if row["student"] is not None]
    return {
        "deployed_over_predicted": spread(ratios),
        "within_15_percent": sum(abs(ratio - 1) <= CLOSE for ratio in ratios),
        "students": len(students),
        "budgets_with_a_student": len(met),
        "budgets_met": sum(row["meets_budget"] for row in met),
        "timings_s": spread([row["timings_s"] for row in budgets]) if budgets else None,
        "left_out_within": sum(len(row["left_out_within"]) for row in met),
    }


def _write_table() -> None:
    models = json.loads((RESULTS / "zoo.json").read_text(encoding="utf-8"))["models"]
    with MEASURED_FILE.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Measured.model_fields)
        for name, row in sorted(models.items()):
            shipped = row["onnxruntime"]
            sqnr_db = "" if shipped["sqnr_db"] is None else round(shipped["sqnr_db"], 1)
            writer.writerow([name, row["image_size"], round(shipped["p50_ms"], 3), sqnr_db, shipped["kept_float"]])


if __name__ == "__main__":
    main()
