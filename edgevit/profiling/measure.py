"""Measurement of latency. Every latency that edgevit reports comes from this module; there is no other clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np

from edgevit.profiling.conditions import load_average
from edgevit.profiling.statistics import (
    Interval,
    Samples,
    coefficient_of_variation,
    drift,
    nearest_rank,
    p50_interval,
    ratio_over_starts,
)

Boundary = Literal["compute", "end_to_end"]
Work = Callable[[], object]
Opener = Callable[[], AbstractContextManager[Work]]

# trtexec calls a GPU unstable above 2.5% (TensorRT 10.14); a CPU under an operating system scatters more.
NOISY_ABOVE = 0.10
DRIFT_ABOVE = 0.05
SLOT_MS = 20.0
STARTS = 12  # times that a comparison loads both models; with fewer, one disturbed start moves the interval
SHORTEST_MS = 1e-3


@dataclass(frozen=True)
class MeasurePlan:
    """Settings of a latency measurement.

    Attributes:
        warmup_s: running time before the first sample.
        duration_s: time over which samples are taken.
        min_runs: least number of samples, whatever the time.
        batch_size: images in each run.
        boundary: `compute` is the model alone with its input in place; `end_to_end` adds decoding and preprocessing.
    """

    warmup_s: float = 0.5
    duration_s: float = 3.0
    min_runs: int = 100
    batch_size: int = 1
    boundary: Boundary = "compute"


class Clock(Protocol):
    """A clock for single runs. A GPU needs another clock than a CPU."""

    def now_s(self) -> float:
        """Seconds since a fixed moment; limits the length of the whole measurement."""

    def time_ms(self, work: Work) -> float:
        """Run `work` once; returns its latency."""


class WallClock:
    """Wall time of this process."""

    def now_s(self) -> float:
        return time.perf_counter()

    def time_ms(self, work: Work) -> float:
        start = time.perf_counter_ns()
        work()
        return (time.perf_counter_ns() - start) / 1e6


@dataclass(frozen=True)
class Measurement:
    """Latencies in run order, with the plan and conditions needed to repeat the measurement."""

    samples_ms: Samples
    plan: MeasurePlan
    conditions: Mapping[str, Any] = field(default_factory=dict)

    def percentile_ms(self, percent: float) -> float:
        return nearest_rank(self.samples_ms, percent)

    @cached_property
    def p50_interval(self) -> Interval:
        return p50_interval(self.samples_ms)

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """Reasons to doubt the measurement, one sentence each."""
        return tuple(_warnings(self.samples_ms))

    def summary(self) -> dict[str, Any]:
        """The numbers for a manifest; latencies in ms."""
        return {
            "p50": self.percentile_ms(50),
            "p90": self.percentile_ms(90),
            "p99": self.percentile_ms(99),
            "p50_low": self.p50_interval.low,
            "p50_high": self.p50_interval.high,
            "n": len(self.samples_ms),
            "coefficient_of_variation": coefficient_of_variation(self.samples_ms),
            "boundary": self.plan.boundary,
            "label": "measured",
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True)
class Comparison:
    """Two models measured in turns: latency of `a` over latency of `b`, with a 95% interval over starts."""

    a: Measurement
    b: Measurement
    ratio: float
    interval: Interval


def measure(
    work: Work, plan: MeasurePlan, clock: Clock | None = None, conditions: Mapping[str, Any] | None = None
) -> Measurement:
    """Measure the latency of `work`: warm up for `plan.warmup_s`, then run for at least `duration_s` and `min_runs`.

    Args:
        conditions: the caller's facts about the model and the machine; the load of the machine is added.
    """
    clock = clock or WallClock()
    receipt = {**(conditions or {}), **plan.__dict__, "load_average_1min_at_start": load_average()}
    _warm_up(work, plan.warmup_s, clock)
    samples: list[float] = []
    end_s = clock.now_s() + plan.duration_s
    while clock.now_s() < end_s or len(samples) < plan.min_runs:
        samples.append(clock.time_ms(work))
    return Measurement(np.asarray(samples), plan, receipt)


def interleaved(a: Opener, b: Opener, plan: MeasurePlan, clock: Clock | None = None) -> Comparison:
    """Measure two models in turns. Each of `STARTS` starts loads both models anew.

    Within a start the models take turns (ABBA), so that drifting clocks and busy neighbors hit both alike. Between
    starts their weights and buffers move in memory, which changes the speed of small models by some per cent; a single
    start would mistake this for a difference (Kalibera and Jones 2013). The interval is therefore over starts.

    Args:
        a, b: each call loads the model and yields a function that runs it once; closed at the end of the start.
        plan: `duration_s`, `warmup_s` and `min_runs` are per model, divided among the starts.
    """
    clock = clock or WallClock()
    receipt = {**plan.__dict__, "load_average_1min_at_start": load_average(), "order": "ABBA", "starts": STARTS}
    starts = [_turns(a, b, plan, clock) if index % 2 else _turns(b, a, plan, clock)[::-1] for index in range(STARTS)]
    ratio, interval = ratio_over_starts([_median_ratio(*start) for start in starts])
    a_ms, b_ms = (np.concatenate(samples) for samples in zip(*starts, strict=True))
    return Comparison(Measurement(a_ms, plan, receipt), Measurement(b_ms, plan, receipt), ratio, interval)


def _turns(first: Opener, second: Opener, plan: MeasurePlan, clock: Clock) -> tuple[Samples, Samples]:
    """Latencies (ms) of two models in one start, equally many of each.

    A turn lasts about `SLOT_MS`. Its first run is not counted: the caches then hold the other model's data.
    """
    with first() as first_run, second() as second_run:
        runs = max(_runs_in_a_slot(work, plan, clock) for work in (first_run, second_run))
        first_ms: list[float] = []
        second_ms: list[float] = []
        end_s = clock.now_s() + 2 * plan.duration_s / STARTS
        while clock.now_s() < end_s or len(first_ms) < plan.min_runs / STARTS:
            for samples_ms, work in (
                (first_ms, first_run),
                (second_ms, second_run),
                (second_ms, second_run),
                (first_ms, first_run),
            ):
                work()
                samples_ms += [clock.time_ms(work) for _ in range(runs)]
    return np.asarray(first_ms), np.asarray(second_ms)


def _median_ratio(a_ms: Samples, b_ms: Samples) -> float:
    return max(nearest_rank(a_ms, 50), SHORTEST_MS) / max(nearest_rank(b_ms, 50), SHORTEST_MS)


def _warm_up(work: Work, warmup_s: float, clock: Clock) -> None:
    end_s = clock.now_s() + warmup_s
    clock.time_ms(work)
    while clock.now_s() < end_s:
        clock.time_ms(work)


def _runs_in_a_slot(work: Work, plan: MeasurePlan, clock: Clock) -> int:
    _warm_up(work, plan.warmup_s / STARTS, clock)
    once_ms = max(clock.time_ms(work), SHORTEST_MS)
    return min(max(1, round(SLOT_MS / once_ms)), max(1, plan.min_runs // 4))


def _warnings(samples_ms: Samples) -> list[str]:
    warnings = []
    variation, change = coefficient_of_variation(samples_ms), drift(samples_ms)
    if variation > NOISY_ABOVE:
        warnings.append(f"the runs scatter by {variation:.0%} of their mean: other work, or throttling, disturbed them")
    if change > DRIFT_ABOVE:
        warnings.append(f"the last third was {change:.0%} slower than the first: the machine may have throttled")
    return warnings
