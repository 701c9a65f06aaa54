"""How often the 95% intervals of `profile` cover the true percentile, and how often a drift is found: simulated runs.

    python -m benchmarks.interval_coverage [--simulations 400]

Runs of about 5 ms depend on each other as in an AR(1) process, or are slower by 30% in bursts that take 5% of the time.
The true percentiles are known. A drift has none: there, the share of measurements that are declared invalid counts.

The runs of a measurement are those of one start of the model, or of five, whose speeds differ. Then the truth is the
percentile of all runs of very many starts, and beside it stands the coverage of the interval of a single start.
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
from edgevit.profiling.statistics import Samples, percentile_interval, percentile_interval_over_starts

RUN_MS, SCATTER = 5.0, 0.02
LENGTHS = (150, 600, 3000)  # runs of a measurement
SETTLING = 1000  # runs of a process before the first that counts
BURST_SHARE, BURST_SLOWER = 0.05, 1.3
LONG = 2_000_000  # runs that give the true percentiles of bursts
DRIFT_RUNS = 600  # three seconds
STARTS = 5  # the default of `profile`
LONG_STARTS = 20_000  # that give the true percentiles of runs of many starts

Generator = np.random.Generator
Process = Callable[[int, Generator], Samples]
Speeds = Callable[[int, Generator], Samples]  # the factor of each start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=400, help="measurements of each kind")
    simulations = parser.parse_args().simulations
    publish(
        "interval_coverage",
        {
            "simulations": simulations,
            "coverage": {name: _coverage(process, simulations) for name, process in PROCESSES.items()},
            "coverage_over_starts": {name: _over_starts(speeds, simulations) for name, speeds in SPEEDS.items()},
            "declared_invalid": {name: _declared(change, simulations, 1) for name, change in CHANGES.items()},
            "declared_invalid_over_starts": {
                name: _declared(change, simulations, STARTS) for name, change in CHANGES.items()
            },
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
SPEEDS: dict[str, Speeds] = {
    "equal starts": lambda starts, generator: np.ones(starts),
    "normal, 0.5%": lambda starts, generator: np.exp(0.005 * generator.normal(size=starts)),
    "normal, 1%": lambda starts, generator: np.exp(0.01 * generator.normal(size=starts)),
    "normal, 2.5%": lambda starts, generator: np.exp(0.025 * generator.normal(size=starts)),
    "any within 5%": lambda starts, generator: 1 + 0.05 * generator.random(starts),
    "a few slow, gamma of 1.5%": lambda starts, generator: 1 + 0.015 * generator.gamma(2, 2**-0.5, starts),
    "3 of 10 slower by 5%": lambda starts, generator: np.where(generator.random(starts) < 0.3, 1.05, 1.0),
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


def _over_starts(speeds: Speeds, simulations: int) -> dict[str, Any]:
    """For each number of runs in all starts and each percentile: the share of intervals that hold the truth, over all
    starts and of the first start alone."""
    generator, process = np.random.default_rng(0), PROCESSES["AR(1), 0.5"]
    long = np.sort(np.concatenate([process(30, generator) * speed for speed in speeds(LONG_STARTS, generator)]))
    rows: dict[str, Any] = {}
    for runs in LENGTHS:
        measured = [
            [process(runs // STARTS, generator) * speed for speed in speeds(STARTS, generator)]
            for _ in range(simulations)
        ]
        rows[str(runs)] = {}
        for percent in PERCENTILES:
            truth = long[math.ceil(percent * len(long) / 100) - 1]
            over = [found for starts in measured if (found := percentile_interval_over_starts(starts, percent))]
            alone = [found for starts in measured if (found := percentile_interval(starts[0], percent))]
            rows[str(runs)][f"p{percent}"] = {
                "covered": float(np.mean([found.low <= truth <= found.high for found in over])) if over else None,
                "given": len(over) / simulations,
                "width": float(np.median([found.high - found.low for found in over]) / truth) if over else None,
                "covered_by_one_start": (
                    float(np.mean([found.low <= truth <= found.high for found in alone])) if alone else None
                ),
            }
    return rows


def _declared(change: Samples, simulations: int, starts: int) -> dict[str, float]:
    """The share of measurements with this change of speed that are invalid, by the dependence of the runs. The speeds
    of several starts also differ by 1%."""
    generator = np.random.default_rng(1)

    def is_declared(process: Process) -> bool:
        speeds = SPEEDS["normal, 1%" if starts > 1 else "equal starts"](starts, generator)
        runs = [process(DRIFT_RUNS // starts, generator) * speed for speed in speeds]
        return bool(drifted([one * part for one, part in zip(runs, np.array_split(change, starts), strict=True)]))

    return {
        name: float(np.mean([is_declared(PROCESSES[name]) for _ in range(simulations)]))
        for name in ("independent runs", "AR(1), 0.9", "bursts of 20 runs")
    }


if __name__ == "__main__":
    main()
