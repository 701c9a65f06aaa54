"""`measure()`: every latency that anyone prints went through it. There is no other clock in the package."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
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
    ratio_interval,
)

Boundary = Literal["compute", "end_to_end"]
Work = Callable[[], object]

# trtexec calls a GPU unstable above 2.5% (TensorRT 10.14); a CPU under an operating system scatters more.
NOISY_ABOVE = 0.10
DRIFT_ABOVE = 0.05
SLOT_MS = 50.0


@dataclass(frozen=True)
class MeasurePlan:
    """How a latency is measured.

    Attributes:
        warmup_s: time spent running before the first sample.
        duration_s: time over which samples are taken.
        min_runs: samples that are taken whatever the time.
        batch_size: images in each run.
        boundary: `compute` is the model alone with its input in place; `end_to_end` adds decoding and preprocessing.
    """

    warmup_s: float = 0.5
    duration_s: float = 3.0
    min_runs: int = 100
    batch_size: int = 1
    boundary: Boundary = "compute"


class Clock(Protocol):
    """What measures one run; a GPU has another one than a CPU."""

    def now_s(self) -> float:
        """Seconds since some moment, for the length of the whole measurement."""

    def time_ms(self, work: Work) -> float:
        """How long `work` took."""


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
    """Latencies in run order, with what is needed to take them again."""

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
        """What makes these numbers doubtful, one sentence each."""
        return tuple(_warnings(self.samples_ms))

    def summary(self) -> dict[str, Any]:
        """The numbers that travel in a manifest."""
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
    """Two models measured in turns: how many times as long a takes as b, with a 95% interval."""

    a: Measurement
    b: Measurement
    ratio: float
    interval: Interval


def measure(
    work: Work, plan: MeasurePlan, clock: Clock | None = None, conditions: Mapping[str, Any] | None = None
) -> Measurement:
    """Latencies of `work`: warmed up for `plan.warmup_s`, then run for `plan.duration_s` and `plan.min_runs` at least.

    Args:
        conditions: what the caller knows about the model and the machine; the load of the machine is added.
    """
    clock = clock or WallClock()
    receipt = {**(conditions or {}), **plan.__dict__, "load_average_1min_at_start": load_average()}
    _warm_up(work, plan.warmup_s, clock)
    samples: list[float] = []
    end_s = clock.now_s() + plan.duration_s
    while clock.now_s() < end_s or len(samples) < plan.min_runs:
        samples.append(clock.time_ms(work))
    return Measurement(np.asarray(samples), plan, receipt)


def interleaved(a: Work, b: Work, plan: MeasurePlan, clock: Clock | None = None) -> Comparison:
    """Measure `a` and `b` in turns (ABBA), so that drifting clocks and busy neighbours hit both alike.

    A turn lasts about 50 ms; its first run, which finds the other's data in the caches, is not counted.
    """
    clock = clock or WallClock()
    runs = max(_runs_in_a_slot(a, plan, clock), _runs_in_a_slot(b, plan, clock))
    times: dict[str, list[float]] = {"a": [], "b": []}
    receipt = {**plan.__dict__, "load_average_1min_at_start": load_average(), "order": "ABBA"}
    end_s = clock.now_s() + 2 * plan.duration_s
    while clock.now_s() < end_s or len(times["a"]) < plan.min_runs:
        for name, work in (("a", a), ("b", b), ("b", b), ("a", a)):
            work()
            times[name] += [clock.time_ms(work) for _ in range(runs)]
    a_ms, b_ms = np.asarray(times["a"]), np.asarray(times["b"])
    rounds = np.arange(len(a_ms)) // (2 * runs)
    return Comparison(
        Measurement(a_ms, plan, receipt),
        Measurement(b_ms, plan, receipt),
        nearest_rank(a_ms, 50) / nearest_rank(b_ms, 50),
        ratio_interval(a_ms, b_ms, rounds),
    )


def _warm_up(work: Work, warmup_s: float, clock: Clock) -> None:
    end_s = clock.now_s() + warmup_s
    clock.time_ms(work)
    while clock.now_s() < end_s:
        clock.time_ms(work)


def _runs_in_a_slot(work: Work, plan: MeasurePlan, clock: Clock) -> int:
    _warm_up(work, plan.warmup_s, clock)
    once_ms = max(clock.time_ms(work), 1e-3)
    return min(max(1, round(SLOT_MS / once_ms)), max(1, plan.min_runs // 4))


def _warnings(samples_ms: Samples) -> list[str]:
    found = []
    variation, change = coefficient_of_variation(samples_ms), drift(samples_ms)
    if variation > NOISY_ABOVE:
        found.append(f"the runs scatter by {variation:.0%} of their mean: other work, or throttling, disturbed them")
    if change > DRIFT_ABOVE:
        found.append(f"the last third was {change:.0%} slower than the first: the machine may have throttled")
    return found
