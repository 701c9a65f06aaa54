"""Measurement of latency. Every latency that edgevit reports comes from this module; there is no other clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, TypeVar

import numpy as np

from edgevit.errors import EdgevitError
from edgevit.profiling.conditions import hottest_c, load_average
from edgevit.profiling.energy import EnergyRecord, NoEnergy, energy_of_runs
from edgevit.profiling.loop import (
    STEADY_OVER_S,
    Clock,
    MeasurePlan,
    Runs,
    Soak,
    Start,
    WallClock,
    WarmUp,
    Work,
    run_alone,
    soak,
)
from edgevit.profiling.meters import SpanMeter, SpanReading
from edgevit.profiling.statistics import (
    Interval,
    Samples,
    coefficient_of_variation,
    drift,
    nearest_rank,
    percentile_interval_over_starts,
    trend_chance,
)
from edgevit.profiling.telemetry import NOT_SAMPLED, Processor, Telemetry

R = TypeVar("R")
Label = Literal["measured", "replayed"]
PERCENTILES: tuple[Literal[50, 90, 99], ...] = (50, 90, 99)

# trtexec calls a GPU unstable above 2.5% (TensorRT 10.14); a CPU under an operating system scatters more.
NOISY_ABOVE = 0.10
DRIFT_ABOVE = 0.05  # of the first third of the runs. Chosen: well above the 2% that measurements should agree within
APART_ABOVE = 0.06  # for a change from start to start. Chosen: starts on a quiet machine differ by up to 5%
DRIFT_CHANCE = 0.01  # of a trend as strong without a drift
FEWEST_IN_JUMP = 20  # runs, of which none lasts as long as all others together. Chosen
JUMP_S = 1.0  # a run of a fast model that waits for a processor ends sooner. Chosen
FEWEST_IN_STEPS = 100  # runs, whose latencies show the steps of a clock. Chosen
COARSE_ABOVE = 0.01  # of the p50, for a step of the clock. Chosen: half of what a measurement should agree within
DRIFT_OVER_S = 1.0  # a shorter run is too short: a block of its trend would not outlast a scheduler's time slices


@dataclass(frozen=True)
class Measurement:
    """Latencies in run order, with the plan and conditions needed to repeat the measurement.

    Attributes:
        label: `replayed` where a stand-in for a board answered with recorded times.
        doubts: reasons to doubt the measurement that the samples do not show, one sentence each.
        telemetry: the state of the machine during the measurement; None where it was not sampled.
        processor: the one that ran the model.
        disturbed: reasons why the measurement does not count that the telemetry does not show, one sentence each.
        parts_ms: the median time of each part of a run from a photo to a class; empty for the boundary `compute`.
        start: of the model in a process of its own; None where it was not measured.
        seconds: from the start of the first run to the end of the last one; by default, the sum of the latencies.
        of_starts: the measurement of each start; empty for a single start.
    """

    samples_ms: Samples
    plan: MeasurePlan
    conditions: Mapping[str, Any] = field(default_factory=dict)
    label: Label = "measured"
    doubts: tuple[str, ...] = ()
    telemetry: Telemetry | None = None
    processor: Processor = "cpu"
    disturbed: tuple[str, ...] = ()
    parts_ms: Mapping[str, float] = field(default_factory=dict)
    start: Start | None = None
    seconds: float | None = None
    of_starts: tuple[Measurement, ...] = ()

    @property
    def by_start(self) -> list[Samples]:
        """The latencies of each start."""
        return [one.samples_ms for one in self.of_starts or (self,)]

    def percentile_ms(self, percent: float) -> float:
        return nearest_rank(self.samples_ms, percent)

    def interval(self, percent: Literal[50, 90, 99]) -> Interval | None:
        """95% interval of a percentile; None if the runs are too few for it. With several starts, it is over starts."""
        return percentile_interval_over_starts(self.by_start, percent)

    @cached_property
    def p50_interval(self) -> Interval:
        """95% interval of the median."""
        interval = self.interval(50)
        assert interval is not None
        return interval

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """Reasons to doubt the measurement, one sentence each."""
        from_telemetry = self.telemetry.doubts(self.processor) if self.telemetry else ()
        scattered = () if self.plan.rate_hz else _warnings(self.by_start)
        return (*self.doubts, *from_telemetry, *coarse(self.samples_ms), *scattered)

    @cached_property
    def invalid(self) -> tuple[str, ...]:
        """Reasons why the latency is none of the device in its stated mode, one sentence each.

        The machine was disturbed by other work, by its clocks or its heat. No budget is judged by an invalid latency,
        and it makes no model faster than another.
        """
        from_telemetry = self.telemetry.invalid(self.processor) if self.telemetry else ()
        return (*self.disturbed, *from_telemetry)

    @property
    def span_s(self) -> float:
        """`seconds`, or its default."""
        return float(self.samples_ms.sum()) / 1e3 if self.seconds is None else self.seconds

    @cached_property
    def energy(self) -> EnergyRecord | NoEnergy:
        """The energy for an image, or why it was not measured."""
        starts = [(one.telemetry, one.samples_ms, one.span_s) for one in self.of_starts or (self,)]
        return energy_of_runs(starts, self.processor, self.plan.batch_size, self.label, self.invalid)

    def summary(self) -> dict[str, Any]:
        """The numbers for a manifest; latencies in ms."""
        return {
            "p50": self.percentile_ms(50),
            "p90": self.percentile_ms(90),
            "p99": self.percentile_ms(99),
            **self._bounds(),
            "n": len(self.samples_ms),
            "starts": len(self.by_start),
            "coefficient_of_variation": coefficient_of_variation(self.samples_ms),
            "boundary": self.plan.boundary,
            "label": self.label,
            "warnings": list(self.warnings),
            "invalid": list(self.invalid),
        }

    def _bounds(self) -> dict[str, float | None]:
        """The intervals of the percentiles; None where the runs are too few."""
        bounds: dict[str, float | None] = {}
        for percent in PERCENTILES:
            interval = self.interval(percent)
            bounds[f"p{percent}_low"] = interval.low if interval else None
            bounds[f"p{percent}_high"] = interval.high if interval else None
        return bounds


def measure(
    work: Work,
    plan: MeasurePlan,
    clock: Clock | None = None,
    conditions: Mapping[str, Any] | None = None,
    temperature_c: Callable[[], float | None] = hottest_c,
    meters: Sequence[SpanMeter] = (),
    processor: Processor = "cpu",
) -> Measurement:
    """Measure the latency of `work`: warm up until it is steady, then run for at least `duration_s` and `min_runs`.

    With `plan.idle_s`, the meters measure the machine at rest before. With `plan.soak_s`, it is then heated.

    Args:
        conditions: the caller's facts about the model and the machine; the load of the machine is added.
        temperature_c: of the processor that runs `work`; None where it is not known.
        meters: measure the span of the counted runs, if the plan asks to watch the machine.
        processor: the one that runs `work`.
    """
    receipt, clock = {**(conditions or {}), **plan.__dict__, **load_now()}, clock or WallClock()
    rest(plan, meters)
    soaked = soak(work, plan.soak_s, temperature_c, clock) if plan.soak_s else None
    runs, readings = metered(lambda begin: run_alone(work, plan, clock, begin), plan, meters)
    return measurement_of_runs(runs, soaked, readings, plan, receipt, processor)


def rest(plan: MeasurePlan, meters: Sequence[SpanMeter]) -> None:
    """Let the meters measure the machine at rest, if the plan asks to watch it."""
    for meter in meters if plan.is_watched else ():
        meter.rest(plan)


def measurement_of_runs(
    runs: Runs,
    soaked: Soak | None,
    readings: Sequence[SpanReading],
    plan: MeasurePlan,
    conditions: Mapping[str, Any],
    processor: Processor = "cpu",
    start: Start | None = None,
) -> Measurement:
    """The measurement of the runs in a process of this machine, with what meters say of them."""
    samples_ms = np.asarray(runs.samples_ms)
    telemetry = next((reading.telemetry for reading in readings if reading.telemetry), None)
    unwatched = (NOT_SAMPLED,) if plan.is_watched and telemetry is None else ()
    of_meters = {name: value for reading in readings for name, value in reading.conditions.items()}
    return Measurement(
        samples_ms,
        plan,
        {
            **conditions,
            **conditions_of_soak(soaked),
            **conditions_of_runs(runs.warm_up, runs.seconds, runs.cpu_s),
            **of_meters,
        },
        doubts=(
            *doubts_of_soak(soaked),
            *doubts_of_warm_up(runs.warm_up),
            *unwatched,
            *(doubt for reading in readings for doubt in reading.doubts),
        ),
        telemetry=telemetry,
        processor=processor,
        disturbed=(*disturbed_runs(samples_ms, plan), *(reason for reading in readings for reason in reading.invalid)),
        parts_ms=runs.parts_ms,
        seconds=runs.seconds,
        start=start,
    )


def metered(
    run: Callable[[Callable[[], object]], R], plan: MeasurePlan, meters: Sequence[SpanMeter]
) -> tuple[R, list[SpanReading]]:
    """The runs, and what the meters say of them, if the plan asks to watch the machine.

    Each meter that was started is stopped, also where a run fails.

    Args:
        run: does the runs, and calls its argument between the warm-up and the counted ones.
    """
    readings = dict[int, SpanReading]()

    def stop(index: int, meter: SpanMeter) -> None:
        readings[index] = meter.stop()

    def begin() -> None:
        for index, meter in enumerate(meters if plan.is_watched else ()):
            meter.start(plan)
            stops.callback(stop, index, meter)

    with ExitStack() as stops:
        runs = run(begin)
    return runs, [readings[index] for index in sorted(readings)]


def valid_measurement(
    take: Callable[[], Measurement], retry_s: float, say: Callable[[str], None], clock: Clock | None = None
) -> Measurement:
    """A measurement that is taken again as long as it or its energy is invalid, until `retry_s` have passed.

    The time counts from the end of the first take. The reasons of the earlier takes are in the conditions, as
    `disturbed_takes`. The last take may be invalid. If a later take fails, the one before it is kept, and so is a valid
    latency whose energy is invalid if the later one is invalid.

    Args:
        take: measures. Replayed times are not taken again: they would be the same.
        say: receives a line for each take that does not count.
    """
    clock, measured, takes = clock or WallClock(), take(), list[tuple[str, ...]]()
    end_s = clock.now_s() + retry_s
    while (reasons := _disturbances(measured)) and measured.label == "measured" and clock.now_s() < end_s:
        say(f"measured again, because the run was disturbed: {'; '.join(reasons)}")
        takes.append(reasons)
        try:
            again = take()
        except EdgevitError as error:
            say(f"not measured again: {error.what}")
            break
        measured = again if measured.invalid or not again.invalid else measured
    return replace(
        measured, conditions={**measured.conditions, "disturbed_takes": [list(reasons) for reasons in takes]}
    )


def _disturbances(measured: Measurement) -> tuple[str, ...]:
    """Why the latency is invalid, or else why the energy is."""
    energy = measured.energy
    return measured.invalid or (energy.invalid if isinstance(energy, EnergyRecord) else ())


def disturbed_runs(samples_ms: Samples, plan: MeasurePlan) -> tuple[str, ...]:
    """Reasons in the latencies of a start why they do not count, a sentence each.

    Frames of a stream wait for each other: there, a long run and a rise of the latency are no disturbance.
    """
    if not (samples_ms > 0).all():
        return ("a run took no time: the clock jumped back, or the run is shorter than the step of the clock",)
    return stood_still(samples_ms, plan) or (() if plan.rate_hz else drifted([samples_ms]))


def stood_still(samples_ms: Samples, plan: MeasurePlan) -> tuple[str, ...]:
    """A sentence, if one run lasted as long as all others together. Frames of a stream wait for such a run."""
    longest_ms, all_ms = float(samples_ms.max()), float(samples_ms.sum())
    if plan.rate_hz or len(samples_ms) < FEWEST_IN_JUMP or longest_ms <= max(all_ms / 2, JUMP_S * 1e3):
        return ()
    return (
        f"one run took {longest_ms / 1e3:.2g} s of {all_ms / 1e3:.2g} s: the machine stood still, or the clock jumped",
    )


def drifted(starts: Sequence[Samples]) -> tuple[str, ...]:
    """A sentence, if the latency rose or fell over the runs by more than DRIFT_ABOVE, and not by chance.

    A smaller change than APART_ABOVE is a drift only if it also shows within the starts.
    """
    samples_ms = np.concatenate(starts)
    change = drift(samples_ms)
    if samples_ms.sum() < DRIFT_OVER_S * 1e3 or abs(change) <= DRIFT_ABOVE:
        return ()
    rises = [trend_chance(starts), *([trend_chance([samples_ms])] if abs(change) > APART_ABOVE else [])]
    if min(rises if change > 0 else (1 - chance for chance in rises)) > DRIFT_CHANCE / 2:
        return ()
    word = "slower" if change > 0 else "faster"
    return (f"the speed changed over the run: its last third was {abs(change):.0%} {word} than its first",)


def coarse(samples_ms: Samples) -> tuple[str, ...]:
    """A sentence, if the clock is too coarse for the runs: its steps show in their latencies."""
    steps_ms = np.diff(np.unique(samples_ms))
    p50_ms = nearest_rank(samples_ms, 50)
    if len(samples_ms) < FEWEST_IN_STEPS or not len(steps_ms) or steps_ms.min() <= COARSE_ABOVE * p50_ms:
        return ()
    return (f"the clock tells steps of {steps_ms.min() * 1e3:.3g} µs, and a run lasts {p50_ms * 1e3:.3g} µs",)


def conditions_of_runs(warmed: WarmUp, seconds: float, cpu_s: float) -> dict[str, Any]:
    """The warm-up, and the processors that the process kept busy on average, for the conditions."""
    return {"warm_up": warmed._asdict(), "cpus_used": cpu_s / seconds if seconds > 0 else None}


def doubts_of_warm_up(warmed: WarmUp) -> tuple[str, ...]:
    """A sentence, if the runs did not become steady."""
    if warmed.is_steady in (True, None):
        return ()
    return (f"after a warm-up of {warmed.seconds:.0f} s, the runs were not steady: give most_warmup_s more time",)


def conditions_of_soak(soaked: Soak | None) -> dict[str, Any]:
    """What a soak reached, for the conditions; empty without a soak."""
    return {} if soaked is None else {"soak": soaked._asdict()}


def doubts_of_soak(soaked: Soak | None) -> tuple[str, ...]:
    """A sentence, if the temperature was not steady after a soak, or is not known."""
    if soaked is None or soaked.is_steady:
        return ()
    if soaked.end_c is None:
        return (f"the machine tells no temperature: whether it was steady after {soaked.seconds:.0f} s is not known",)
    if soaked.slope_c_per_min is None:
        return (f"a soak of {soaked.seconds:.0f} s is too short to tell a steady temperature ({STEADY_OVER_S:.0f} s)",)
    return (
        f"after a soak of {soaked.seconds:.0f} s, the temperature still changed by {soaked.slope_c_per_min:+.1f} °C a "
        "minute: give soak_s more time",
    )


def load_now() -> dict[str, Any]:
    """The load of the machine, for the conditions."""
    return {"load_average_1min_at_start": load_average()}


def _warnings(starts: Sequence[Samples]) -> list[str]:
    warnings, samples_ms = [], np.concatenate(starts)
    variation, change = coefficient_of_variation(samples_ms), drift(samples_ms)
    if variation > NOISY_ABOVE:
        warnings.append(f"the runs scatter by {variation:.0%} of their mean: other work, or throttling, disturbed them")
    if change > DRIFT_ABOVE and not drifted(starts):
        warnings.append(f"the last third was {change:.0%} slower than the first: the machine may have throttled")
    return warnings
