"""Prediction on this CPU: unit costs fitted to half of the catalogue predict the other half.

    python -m benchmarks.latency_cpu [--models 40] [--runtimes onnxruntime openvino]

The models are measured as `edgevit devices calibrate` measures them: one thread, one image, random weights, in float32
and in INT8 where `quantize` reaches most. Every second model, by size, is one half. Each half predicts the other, with
the interval from the errors of its own left-out models. Beside it: one cost of a multiply-accumulate alone, and of a
parameter alone, fitted to the same halves. The summary is of both halves together. About 20 minutes on two quiet cores;
a run that was stopped begins again.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from benchmarks.common import publish
from edgevit.actions.calibrate_device import PRECISIONS, measured_models, spread_models
from edgevit.configs.targets import LOCAL_CPU
from edgevit.context import Context
from edgevit.latency_model.unit_costs import (
    MeasuredUnits,
    fitted_costs,
    fitted_int8_costs,
    interval_factor,
    left_out_ms,
    predicted_ms,
)
from edgevit.models import catalogue
from edgevit.progress import PlainProgress

RUNTIMES = ("onnxruntime", "openvino")
LEVEL = 0.9

Rows = Sequence[MeasuredUnits]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=len(catalogue.read()))
    parser.add_argument("--runtimes", nargs="*", choices=RUNTIMES, default=RUNTIMES)
    asked = parser.parse_args()
    context, names = Context(progress=PlainProgress(sys.stderr)), spread_models(asked.models)
    results: dict[str, Any] = {}
    for runtime in asked.runtimes:
        measured = measured_models(LOCAL_CPU, runtime, 1, PRECISIONS, names, context)
        for precision, rows in measured.items():
            floats = measured["float32"] if precision == "int8" else None
            results[f"{runtime}_{precision}"] = _result(rows, floats)
        publish("latency_cpu", results)


def _result(rows: Rows, floats: Rows | None) -> dict[str, Any]:
    """The errors of the predictions of both halves, by predictor, with the raw rows.

    Args:
        floats: for INT8, the models in float32; None for float32.
    """
    halves = [[row for row in rows if _place(row) % 2 == half] for half in (0, 1)]
    held_out = [*halves[1], *halves[0]]
    predicted = {
        "macs_alone": _by_one_number(halves, lambda name: _entry(name).macs),
        "parameters_alone": _by_one_number(halves, lambda name: _entry(name).params),
        "unit_costs": [],
    }
    factors: list[float] = []
    for seen, asked in (halves, halves[::-1]):
        names = {row.name for row in seen}
        known = None if floats is None else [row for row in floats if row.name in names]
        costs = fitted_costs(seen) if known is None else fitted_int8_costs(seen, known)
        predicted["unit_costs"] += [predicted_ms(row.units, costs) for row in asked]
        ratios = [ms / row.p50_ms for ms, row in zip(left_out_ms(seen, known), seen, strict=True)]
        factors += [interval_factor(ratios, LEVEL)] * len(asked)
    covered = [
        1 / factor <= ms / row.p50_ms <= factor
        for row, ms, factor in zip(held_out, predicted["unit_costs"], factors, strict=True)
    ]
    return {
        "models": len(rows),
        "errors": {name: _errors(held_out, values) for name, values in predicted.items()},
        "coverage_of_90": statistics.mean(covered),
        "factors_of_90": sorted(set(factors)),
        "rows": [
            {
                "model": row.name,
                "p50_ms": row.p50_ms,
                **{name: values[place] for name, values in predicted.items()},
                "units": row.units.tolist(),
            }
            for place, row in enumerate(held_out)
        ],
    }


def _errors(rows: Rows, predicted_ms: Sequence[float]) -> dict[str, float]:
    errors = [abs(ms / row.p50_ms - 1) for row, ms in zip(rows, predicted_ms, strict=True)]
    return {
        "median": statistics.median(errors),
        "p90": float(np.quantile(errors, LEVEL)),
        "within_20": statistics.mean(error <= 0.2 for error in errors),
        "rank": float(spearmanr(predicted_ms, _times(rows)).statistic),
    }


def _by_one_number(halves: Sequence[Rows], of: Callable[[str], int]) -> list[float]:
    """By one cost for a number of a model: its geometric mean over the half that is seen."""
    predicted = []
    for seen, asked in (halves, halves[::-1]):
        cost = math.exp(statistics.mean(math.log(row.p50_ms / of(row.name)) for row in seen))
        predicted += [cost * of(row.name) for row in asked]
    return predicted


def _place(row: MeasuredUnits) -> int:
    return catalogue.read().index(_entry(row.name))


def _entry(name: str) -> catalogue.Entry:
    return next(entry for entry in catalogue.read() if entry.name == name.split(" ")[0])


def _times(rows: Rows) -> list[float]:
    return [row.p50_ms for row in rows]


if __name__ == "__main__":
    main()
