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
from edgevit.actions.calibrate_device import PRECISIONS, MeasuredUnits, measured_models, spread_models
from edgevit.configs.targets import LOCAL_CPU
from edgevit.context import Context
from edgevit.latency_model.unit_costs import fitted_costs, interval_factor, left_out_ms, parts_ms
from edgevit.models import catalogue
from edgevit.progress import PlainProgress

RUNTIMES = ("onnxruntime", "openvino")
LEVEL = 0.9

Rows = Sequence[MeasuredUnits]
Predictor = Callable[[Rows, Rows], list[float]]  # of the models to predict by those to fit, in ms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=len(catalogue.read()))
    parser.add_argument("--runtimes", nargs="*", choices=RUNTIMES, default=RUNTIMES)
    asked = parser.parse_args()
    context, names = Context(progress=PlainProgress(sys.stderr)), spread_models(asked.models)
    results: dict[str, Any] = {}
    for runtime in asked.runtimes:
        measured = measured_models(LOCAL_CPU, runtime, 1, PRECISIONS, names, context)
        results |= {f"{runtime}_{precision}": _result(rows) for precision, rows in measured.items()}
        publish("latency_cpu", results)


def _result(rows: Rows) -> dict[str, Any]:
    """The errors of the predictions of both halves, by predictor, with the raw rows."""
    halves = rows[::2], rows[1::2]
    predicted = {
        name: [*predict(halves[0], halves[1]), *predict(halves[1], halves[0])] for name, predict in PREDICTORS.items()
    }
    held_out = [*halves[1], *halves[0]]
    covered = [
        1 / factor <= ms / row.p50_ms <= factor
        for row, ms, factor in zip(held_out, predicted["unit_costs"], _factors(halves), strict=True)
    ]
    return {
        "models": len(rows),
        "errors": {name: _errors(held_out, values) for name, values in predicted.items()},
        "coverage_of_90": statistics.mean(covered),
        "rows": [
            {"model": row.name, "p50_ms": row.p50_ms, **{name: values[place] for name, values in predicted.items()}}
            for place, row in enumerate(held_out)
        ],
        "costs_ns": fitted_costs(_units(rows), _times(rows)),
    }


def _errors(rows: Rows, predicted_ms: Sequence[float]) -> dict[str, float]:
    errors = [abs(ms / row.p50_ms - 1) for row, ms in zip(rows, predicted_ms, strict=True)]
    return {
        "median": statistics.median(errors),
        "p90": float(np.quantile(errors, LEVEL)),
        "within_20": statistics.mean(error <= 0.2 for error in errors),
        "rank": float(spearmanr(predicted_ms, _times(rows)).statistic),
    }


def _factors(halves: tuple[Rows, Rows]) -> list[float]:
    """The factor of the 90% interval of each held-out model, from the left-out models of the half that predicts it."""
    factors = []
    for fitted, asked in (halves, halves[::-1]):
        ratios = [ms / row.p50_ms for ms, row in zip(left_out_ms(_units(fitted), _times(fitted)), fitted, strict=True)]
        factors += [interval_factor(ratios, LEVEL)] * len(asked)
    return factors


def _by_unit_costs(fitted: Rows, asked: Rows) -> list[float]:
    costs = fitted_costs(_units(fitted), _times(fitted))
    return [sum(parts_ms(row.units, costs).values()) for row in asked]


def _by_one_number(of: Callable[[str], int]) -> Predictor:
    """One cost for a number of a model, the geometric mean over the fitted models."""

    def predict(fitted: Rows, asked: Rows) -> list[float]:
        cost = math.exp(statistics.mean(math.log(row.p50_ms / of(row.name)) for row in fitted))
        return [cost * of(row.name) for row in asked]

    return predict


def _entry(name: str) -> catalogue.Entry:
    return next(entry for entry in catalogue.read() if entry.name == name.split(" ")[0])


PREDICTORS: dict[str, Predictor] = {
    "unit_costs": _by_unit_costs,
    "macs_alone": _by_one_number(lambda name: _entry(name).macs),
    "parameters_alone": _by_one_number(lambda name: _entry(name).params),
}


def _units(rows: Rows) -> np.ndarray[Any, Any]:
    return np.array([row.units for row in rows])


def _times(rows: Rows) -> list[float]:
    return [row.p50_ms for row in rows]


if __name__ == "__main__":
    main()
