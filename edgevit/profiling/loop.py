"""The timing loop: a clock, the warm-up, and the runs. It needs the standard library alone, Python 3.8 or later.

Devices run this file as it is. Statistics stay in `measure`.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Callable, List, Literal, NamedTuple, Protocol, Sequence  # noqa: UP035 - Python 3.8 cannot subscript others

Boundary = Literal["compute", "end_to_end"]
Work = Callable[[], object]
Opener = Callable[[], "AbstractContextManager[Work]"]
Turns = List[List[float]]  # noqa: UP006 - latencies (ms) of each model in a start

SLOT_MS = 20.0
STARTS = 12  # times that a race loads its models; with fewer, one disturbed start moves the interval
SHORTEST_MS = 1e-3
STEADY_C_PER_MIN = 0.5  # a temperature that changes more slowly is steady. Chosen, as is usual for boards
STEADY_OVER_S = 30.0  # the time over which the slope is taken. Chosen: half a minute shows 0.5 °C a minute as 0.25 °C
LOOK_S = 1.0  # between two readings of the temperature in a soak


@dataclass(frozen=True)
class MeasurePlan:
    """Settings of a latency measurement.

    Attributes:
        warmup_s: running time before the first sample.
        duration_s: time over which samples are taken.
        min_runs: least number of samples, whatever the time.
        batch_size: images in each run.
        boundary: `compute` is the model alone with its input in place; `end_to_end` adds decoding and preprocessing.
        soak_s: longest time of load before the warm-up, until the temperature is steady.
    """

    warmup_s: float = 0.5
    duration_s: float = 3.0
    min_runs: int = 100
    batch_size: int = 1
    boundary: Boundary = "compute"
    soak_s: float = 0.0


class Soak(NamedTuple):
    """Load before a measurement, and the temperature that it reached. None: the machine tells no temperature.

    Attributes:
        slope_c_per_min: over the last `STEADY_OVER_S`; None if the soak was shorter.
        is_steady: whether the temperature changed by less than `STEADY_C_PER_MIN`.
    """

    seconds: float
    start_c: float | None
    end_c: float | None
    slope_c_per_min: float | None
    is_steady: bool


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


def run_alone(work: Work, plan: MeasurePlan, clock: Clock) -> list[float]:
    """Latencies (ms) of one model, after a warm-up of `plan.warmup_s`: at least `duration_s` and `min_runs`."""
    _warm_up(work, plan.warmup_s, clock)
    samples_ms: list[float] = []
    end_s = clock.now_s() + plan.duration_s
    while clock.now_s() < end_s or len(samples_ms) < plan.min_runs:
        samples_ms.append(clock.time_ms(work))
    return samples_ms


def soak(work: Work, soak_s: float, temperature_c: Callable[[], float | None], clock: Clock) -> Soak:
    """Run a model until the temperature is steady, and for at most `soak_s`. Without a temperature, for all of it."""
    start_s = clock.now_s()
    readings: list[tuple[float, float | None]] = [(0.0, temperature_c())]
    while True:
        now_s = clock.now_s() - start_s
        if now_s - readings[-1][0] >= LOOK_S or now_s >= soak_s:
            readings.append((now_s, temperature_c()))
            slope = slope_per_min(readings)
            is_steady = slope is not None and abs(slope) < STEADY_C_PER_MIN
            if is_steady or now_s >= soak_s:
                return Soak(now_s, readings[0][1], readings[-1][1], slope, is_steady)
        clock.time_ms(work)


def slope_per_min(readings: list[tuple[float, float | None]]) -> float | None:
    """The slope of the last `STEADY_OVER_S` of readings (s, °C) by least squares; None for a shorter time."""
    end_s = readings[-1][0]
    if end_s - readings[0][0] < STEADY_OVER_S:
        return None
    last = [(time_s, value) for time_s, value in readings if value is not None and time_s >= end_s - STEADY_OVER_S]
    if len(last) < 2:
        return None
    middle_s, middle = sum(time_s for time_s, _ in last) / len(last), sum(value for _, value in last) / len(last)
    spread = sum((time_s - middle_s) ** 2 for time_s, _ in last)
    return 60 * sum((time_s - middle_s) * (value - middle) for time_s, value in last) / spread if spread else None


def run_in_turns(openers: Sequence[Opener], plan: MeasurePlan, clock: Clock) -> list[Turns]:
    """Latencies (ms) of models that take turns: those of each model, for each of `STARTS` starts.

    Each start loads all models anew. `duration_s`, `warmup_s` and `min_runs` are per model, divided among the starts.
    The models change places from start to start.
    """
    return [_one_start(openers, order_of_start(start, len(openers)), plan, clock) for start in range(STARTS)]


def order_of_start(start: int, models: int) -> list[int]:
    """The order of the models in a start: a row of Williams' square (1949), which is 0, 1, −1, 2, −2, … moved on.

    Over as many starts as there are models, each model takes each place once. There and back, each model follows each
    other model equally often. Two models change places from start to start.
    """
    return [((place + 1) // 2 * (1 if place % 2 else -1) + start + 1) % models for place in range(models)]


def _one_start(openers: Sequence[Opener], order: Sequence[int], plan: MeasurePlan, clock: Clock) -> Turns:
    """Latencies (ms) of each model in one start, equally many of each. Two models take turns as ABBA.

    A turn lasts about `SLOT_MS`. Its first run is not counted: the caches then hold another model's data.
    """
    latencies_ms: Turns = [[] for _ in openers]
    with ExitStack() as opened:
        works = {model: opened.enter_context(openers[model]()) for model in order}
        runs = max(_runs_in_a_slot(work, plan, clock) for work in works.values())
        end_s = clock.now_s() + len(openers) * plan.duration_s / STARTS
        while clock.now_s() < end_s or len(latencies_ms[0]) < plan.min_runs / STARTS:
            for model in (*order, *reversed(order)):
                works[model]()
                latencies_ms[model] += [clock.time_ms(works[model]) for _ in range(runs)]
    return latencies_ms


def _warm_up(work: Work, warmup_s: float, clock: Clock) -> None:
    end_s = clock.now_s() + warmup_s
    clock.time_ms(work)
    while clock.now_s() < end_s:
        clock.time_ms(work)


def _runs_in_a_slot(work: Work, plan: MeasurePlan, clock: Clock) -> int:
    _warm_up(work, plan.warmup_s / STARTS, clock)
    once_ms = max(clock.time_ms(work), SHORTEST_MS)
    return min(max(1, round(SLOT_MS / once_ms)), max(1, plan.min_runs // 4))
