"""The timing loop: a clock, the warm-up, and the runs. It needs the standard library alone, Python 3.8 or later.

Devices run this file as it is. Statistics stay in `measure`.
"""

from __future__ import annotations

import math
import statistics
import time
from bisect import bisect_left, bisect_right
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import (  # noqa: UP035 - Python 3.8 cannot subscript others
    Any,
    Callable,
    Dict,
    List,
    Literal,
    NamedTuple,
    Protocol,
    Sequence,
    Tuple,
)

Boundary = Literal["compute", "end_to_end"]
Work = Callable[[], object]
Opener = Callable[[], "AbstractContextManager[Work]"]
Turns = List[List[float]]  # noqa: UP006 - latencies (ms) of each model in a start
Part = Tuple[str, Callable[[Any], Any]]  # noqa: UP006 - a name and a function of what the part before returns

SLOT_MS = 20.0
STARTS = 12  # times that a race loads its models; with fewer, one disturbed start moves the interval
SHORTEST_MS = 1e-3
STEADY_C_PER_MIN = 0.5  # a temperature that changes more slowly is steady. Chosen, as is usual for boards
STEADY_OVER_S = 30.0  # the time over which the slope is taken. Chosen: half a minute shows 0.5 °C a minute as 0.25 °C
LOOK_S = 1.0  # between two readings of the temperature in a soak
STRETCH_S = 0.5  # the last runs of a warm-up, whose halves are compared. Chosen
FEWEST_IN_STRETCH = 8  # runs; with 4 against 4, the rank sum can tell the halves apart
STEADY_WITHIN = 0.01  # between the medians of the halves. Chosen: half of what a measurement should agree within
STEADY_Z = 1.96  # of the rank sum: 5% of steady runs are beyond
AWAKE_S = 1e-3  # before a frame arrives, in which a stream waits without sleep. Chosen: a sleep ends late by less


@dataclass(frozen=True)
class MeasurePlan:
    """Settings of a latency measurement.

    Attributes:
        warmup_s: running time before the first sample.
        most_warmup_s: longest warm-up, until the runs are steady; 0 for a warm-up of `warmup_s`, whatever the runs.
        duration_s: time over which samples are taken.
        min_runs: least number of samples, whatever the time.
        batch_size: images in each run.
        boundary: `compute` is the model alone with its input in place; `end_to_end` adds decoding and preprocessing.
        soak_s: longest time of load before the warm-up, until the temperature is steady.
        is_watched: whether the state of this machine is sampled during the runs. An agent elsewhere always does it.
        idle_s: time at rest before all runs, over which idle power is measured where the machine tells power. 0: energy
            is not measured.
        rate_hz: frames, of `batch_size` images each, that arrive in a second at equal intervals. 0: a run begins when
            the run before it has ended.
    """

    warmup_s: float = 0.5
    duration_s: float = 3.0
    min_runs: int = 100
    batch_size: int = 1
    boundary: Boundary = "compute"
    soak_s: float = 0.0
    most_warmup_s: float = 0.0
    is_watched: bool = False
    idle_s: float = 0.0
    rate_hz: float = 0.0


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


class WarmUp(NamedTuple):
    """The uncounted runs before a measurement.

    Attributes:
        is_steady: whether the last runs did not show a change; None if the plan did not ask.
    """

    seconds: float
    runs: int
    is_steady: bool | None


class Runs(NamedTuple):
    """The counted runs of a model, in order, and the warm-up before them.

    Attributes:
        samples_ms: the time of each run; with a rate, the time from the arrival of each frame to its end.
        seconds: from the start of the first run to the end of the last one.
        cpu_s: processor time of this process meanwhile, over all its threads.
        parts_ms: the median time of each part of a `Waterfall`; empty for other work.
    """

    samples_ms: List[float]  # noqa: UP006
    warm_up: WarmUp
    seconds: float
    cpu_s: float
    parts_ms: Dict[str, float]  # noqa: UP006


class Start(NamedTuple):
    """The start of a model in a process of its own, which has imported the runtime.

    Attributes:
        load_ms: the time to load the model, from a file that the system has in memory.
        first_ms: the time of the first run.
        own_bytes, peak_bytes: the largest resident memory of the process before the model was loaded, and after the
            first run; None where the system does not tell it.
    """

    load_ms: float
    first_ms: float
    own_bytes: int | None
    peak_bytes: int | None


class Waterfall:
    """Work in parts, one after another, each timed by itself.

    Args:
        parts: the first part is given None, every other part what the part before it returns.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        times_ns: Callable[[], List[int]] = list  # noqa: UP006
        self._parts = [(name, part, times_ns()) for name, part in parts]

    def __call__(self) -> object:
        value = None
        for _, part, times_ns in self._parts:
            start = time.perf_counter_ns()
            value = part(value)
            times_ns.append(time.perf_counter_ns() - start)
        return value

    def medians_ms(self, runs: int) -> dict[str, float]:
        """The median time of each part over the last `runs` runs."""
        return {name: statistics.median(times_ns[-runs:]) / 1e6 for name, _, times_ns in self._parts}


class Clock(Protocol):
    """A clock for single runs. A GPU needs another clock than a CPU."""

    def now_s(self) -> float:
        """Seconds since a fixed moment; limits the length of the whole measurement."""

    def time_ms(self, work: Work) -> float:
        """Run `work` once; returns its latency."""

    def wait_until(self, time_s: float) -> None:
        """Return at a time of `now_s`; at once, if it has passed."""


class WallClock:
    """Wall time of this process."""

    def now_s(self) -> float:
        return time.perf_counter()

    def time_ms(self, work: Work) -> float:
        start = time.perf_counter_ns()
        work()
        return (time.perf_counter_ns() - start) / 1e6

    def wait_until(self, time_s: float) -> None:
        while True:
            left_s = time_s - self.now_s()
            if left_s <= 0:
                return
            if left_s > AWAKE_S:
                time.sleep(left_s - AWAKE_S)


def run_alone(work: Work, plan: MeasurePlan, clock: Clock, on_start: Callable[[], object] | None = None) -> Runs:
    """Run a model by itself: warm up until it is steady, then at least `duration_s` and `min_runs`.

    Without a rate, a run begins when the run before it has ended. With a rate, frames arrive at equal intervals.

    Args:
        on_start: is called between the warm-up and the counted runs.
    """
    warmed = warm_up(work, plan, clock)
    if on_start is not None:
        on_start()
    start_s, cpu_s = clock.now_s(), time.process_time()
    samples_ms = _stream(work, plan, clock) if plan.rate_hz else _one_after_another(work, plan, clock)
    seconds, cpu_s = clock.now_s() - start_s, time.process_time() - cpu_s
    parts_ms = work.medians_ms(len(samples_ms)) if isinstance(work, Waterfall) else {}
    return Runs(samples_ms, warmed, seconds, cpu_s, parts_ms)


def _one_after_another(work: Work, plan: MeasurePlan, clock: Clock) -> list[float]:
    samples_ms: list[float] = []
    end_s = clock.now_s() + plan.duration_s
    while clock.now_s() < end_s or len(samples_ms) < plan.min_runs:
        samples_ms.append(clock.time_ms(work))
    return samples_ms


def _stream(work: Work, plan: MeasurePlan, clock: Clock) -> list[float]:
    """Latencies (ms) of frames from their arrival. A frame that arrives during a run waits; no frame is dropped."""
    samples_ms: list[float] = []
    start_s = clock.now_s()
    end_s = start_s + plan.duration_s
    while True:
        arrival_s = start_s + len(samples_ms) / plan.rate_hz
        if max(arrival_s, clock.now_s()) >= end_s and len(samples_ms) >= plan.min_runs:
            return samples_ms
        clock.wait_until(arrival_s)
        clock.time_ms(work)
        samples_ms.append((clock.now_s() - arrival_s) * 1e3)


def warm_up(work: Work, plan: MeasurePlan, clock: Clock) -> WarmUp:
    """Run a model for `warmup_s`, and on until its last runs are steady, for at most `most_warmup_s`.

    The last `STRETCH_S` of runs are looked at, again after half as long.
    """
    start_s, times_ms = clock.now_s(), [clock.time_ms(work)]
    while clock.now_s() - start_s < plan.warmup_s:
        times_ms.append(clock.time_ms(work))
    if plan.most_warmup_s == 0:
        return WarmUp(clock.now_s() - start_s, len(times_ms), None)
    look_s = 0.0
    while True:
        seconds = clock.now_s() - start_s
        if seconds >= look_s and len(times_ms) >= FEWEST_IN_STRETCH:
            if is_steady(_last(times_ms)):
                return WarmUp(seconds, len(times_ms), True)
            look_s = seconds + STRETCH_S / 2
        if seconds >= plan.most_warmup_s:
            return WarmUp(seconds, len(times_ms), False)
        times_ms.append(clock.time_ms(work))


def is_steady(times_ms: list[float]) -> bool:
    """Whether the halves of a stretch of runs do not differ: in their medians, or in their rank sum.

    Medians within `STEADY_WITHIN` count as equal. The rank sum is that of Mann and Whitney (1947), in its normal form.
    """
    half = len(times_ms) // 2
    first, last = sorted(times_ms[:half]), sorted(times_ms[-half:])
    before, after = statistics.median(first), statistics.median(last)
    if abs(after - before) <= STEADY_WITHIN * before:
        return True
    larger = sum((bisect_left(first, value) + bisect_right(first, value)) / 2 for value in last)
    spread = math.sqrt(half * half * (2 * half + 1) / 12)
    return abs(larger - half * half / 2) <= STEADY_Z * spread


def _last(times_ms: list[float]) -> list[float]:
    """The runs of the last `STRETCH_S`, and at least FEWEST_IN_STRETCH."""
    runs, total_ms = 0, 0.0
    while runs < len(times_ms) and (total_ms < STRETCH_S * 1e3 or runs < FEWEST_IN_STRETCH):
        runs += 1
        total_ms += times_ms[-runs]
    return times_ms[-runs:]


def soak(work: Work, soak_s: float, temperature_c: Callable[[], float | None], clock: Clock) -> Soak:
    """Run a model until the temperature is steady, and for at most `soak_s`. Without a temperature, for all of it."""
    start_s = clock.now_s()
    readings: list[tuple[float, float | None]] = [(0.0, temperature_c())]
    while True:
        now_s = clock.now_s() - start_s
        if now_s - readings[-1][0] >= LOOK_S or now_s >= soak_s:
            readings.append((now_s, temperature_c()))
            slope = slope_per_min(readings)
            has_settled = slope is not None and abs(slope) < STEADY_C_PER_MIN
            if has_settled or now_s >= soak_s:
                return Soak(now_s, readings[0][1], readings[-1][1], slope, has_settled)
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


def _runs_in_a_slot(work: Work, plan: MeasurePlan, clock: Clock) -> int:
    warm_up(work, MeasurePlan(warmup_s=plan.warmup_s / STARTS), clock)
    once_ms = max(clock.time_ms(work), SHORTEST_MS)
    return min(max(1, round(SLOT_MS / once_ms)), max(1, plan.min_runs // 4))
