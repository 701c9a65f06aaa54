"""How often the 95% intervals of `profile` cover the true percentile, and how often a drift is found: simulated runs.

    python -m benchmarks.interval_coverage [--simulations 400]

Runs of about 5 ms depend on each other as in an AR(1) process, or are slower by 30% in bursts that take 5% of the time.
The true percentiles are known. A drift has none: there, the share of measurements that are declared invalid counts.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.signal
import scipy.stats

from benchmarks.common import publish
from edgevit.profiling.measure import PERCENTILES, drifted
from edgevit.profiling.statistics import Samples, percentile_interval

RUN_MS, SCATTER = 5.0, 0.02
LENGTHS = (150, 600, 3000)  # runs of a measurement
SETTLING = 1000  # runs of a process before the first that counts
BURST_SHARE, BURST_SLOWER = 0.05, 1.3
LONG = 2_000_000  # runs that give the true percentiles of bursts
DRIFT_RUNS = 600  # three seconds

Generator = np.random.Generator
Process = Callable[[int, Generator], Samples]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=400, help="measurements of each kind")
    simulations = parser.parse_args().simulations
    publish(
        "interval_coverage",
        {
            "simulations": simulations,
            "coverage": {name: _coverage(process, simulations) for name, process in PROCESSES.items()},
            "declared_invalid": {name: _declared(change, simulations) for name, change in CHANGES.items()},
        },
    )


def _ar1(dependence: float) -> Process:
    def process(runs: int, generator: Generator) -> Samples:
        noise = generator.normal(size=runs + SETTLING) * math.sqrt(1 - dependence**2)
        values: Samples = scipy.signal.lfilter([1], [1, -dependence], noise)[SETTLING:]
        return RUN_MS * np.exp(SCATTER * values)

    return process


def _bursts(length: int) -> Process:
    """Bursts and pauses of geometric lengths; a burst has `length` runs on average."""
    pause = length * (1 - BURST_SHARE) / BURST_SHARE

    def process(runs: int, generator: Generator) -> Samples:
        turns = 2 * (math.ceil((runs + SETTLING) / (length + pause)) + 20)
        lengths = generator.geometric(np.tile([1 / pause, 1 / length], turns // 2))
        while lengths.sum() < runs + SETTLING:
            lengths = np.concatenate([lengths, generator.geometric(np.tile([1 / pause, 1 / length], turns // 2))])
        is_burst = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)[SETTLING : SETTLING + runs]
        quiet = RUN_MS * np.exp(SCATTER * generator.normal(size=runs))
        return quiet * np.where(is_burst, BURST_SLOWER, 1.0)

    return process


PROCESSES: dict[str, Process] = {
    "independent runs": _ar1(0.0),
    "AR(1), 0.5": _ar1(0.5),
    "AR(1), 0.9": _ar1(0.9),
    "AR(1), 0.97": _ar1(0.97),
    "bursts of 5 runs": _bursts(5),
    "bursts of 20 runs": _bursts(20),
}
CHANGES: dict[str, Samples] = {
    "no drift": np.ones(DRIFT_RUNS),
    "5% over the run": np.linspace(1, 1.05, DRIFT_RUNS),
    "8% over the run": np.linspace(1, 1.08, DRIFT_RUNS),
    "10% over the run": np.linspace(1, 1.10, DRIFT_RUNS),
    "20% over the run": np.linspace(1, 1.20, DRIFT_RUNS),
    "a step of 10% in the middle": np.repeat([1, 1.10], DRIFT_RUNS // 2),
}


def _coverage(process: Process, simulations: int) -> dict[str, Any]:
    """For each length and percentile: the share of intervals that hold the truth, and the share of measurements that
    have an interval."""
    generator = np.random.default_rng(0)
    long = np.sort(process(LONG, generator))
    rows: dict[str, Any] = {}
    for runs in LENGTHS:
        measured = [process(runs, generator) for _ in range(simulations)]
        rows[str(runs)] = {}
        for percent in PERCENTILES:
            truth = long[math.ceil(percent * LONG / 100) - 1]
            intervals = [found for one in measured if (found := percentile_interval(one, percent)) is not None]
            covered = [found.low <= truth <= found.high for found in intervals]
            rows[str(runs)][f"p{percent}"] = {
                "covered": float(np.mean(covered)) if covered else None,
                "given": len(intervals) / simulations,
                "width": float(np.median([found.high - found.low for found in intervals]) / truth) if covered else None,
            }
    return rows


def _declared(change: Samples, simulations: int) -> dict[str, float]:
    """The share of measurements with this change of speed that are invalid, by the dependence of the runs."""
    generator = np.random.default_rng(1)
    return {
        name: float(
            np.mean([bool(drifted(PROCESSES[name](DRIFT_RUNS, generator) * change)) for _ in range(simulations)])
        )
        for name in ("independent runs", "AR(1), 0.9", "bursts of 20 runs")
    }


if __name__ == "__main__":
    main()
