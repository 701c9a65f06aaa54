"""Measurement of latency. Every latency that edgevit reports comes from this module; there is no other clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from edgevit.profiling.conditions import hottest_c, load_average
from edgevit.profiling.loop import (
    STEADY_OVER_S,
    Clock,
    MeasurePlan,
    Soak,
    WallClock,
    Work,
    run_alone,
    soak,
)
from edgevit.profiling.statistics import (
    Interval,
    Samples,
    coefficient_of_variation,
    drift,
    nearest_rank,
    p50_interval,
)
from edgevit.profiling.telemetry import Processor, Telemetry

Label = Literal["measured", "replayed"]

# trtexec calls a GPU unstable above 2.5% (TensorRT 10.14); a CPU under an operating system scatters more.
NOISY_ABOVE = 0.10
DRIFT_ABOVE = 0.05


@dataclass(frozen=True)
class Measurement:
    """Latencies in run order, with the plan and conditions needed to repeat the measurement.

    Attributes:
        label: `replayed` where a stand-in for a board answered with recorded times.
        doubts: reasons to doubt the measurement that the samples do not show, one sentence each.
        telemetry: the state of the machine during the measurement; None where it was not sampled.
        processor: the one that ran the model.
    """

    samples_ms: Samples
    plan: MeasurePlan
    conditions: Mapping[str, Any] = field(default_factory=dict)
    label: Label = "measured"
    doubts: tuple[str, ...] = ()
    telemetry: Telemetry | None = None
    processor: Processor = "cpu"

    def percentile_ms(self, percent: float) -> float:
        return nearest_rank(self.samples_ms, percent)

    @cached_property
    def p50_interval(self) -> Interval:
        return p50_interval(self.samples_ms)

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """Reasons to doubt the measurement, one sentence each."""
        from_telemetry = self.telemetry.doubts(self.processor) if self.telemetry else ()
        return (*self.doubts, *from_telemetry, *_warnings(self.samples_ms))

    @cached_property
    def invalid(self) -> tuple[str, ...]:
        """Reasons why the latency is none of the device in its stated mode, one sentence each.

        No budget is judged by an invalid latency, and it makes no model faster than another.
        """
        return self.telemetry.invalid(self.processor) if self.telemetry else ()

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
            "label": self.label,
            "warnings": list(self.warnings),
            "invalid": list(self.invalid),
        }


def measure(
    work: Work,
    plan: MeasurePlan,
    clock: Clock | None = None,
    conditions: Mapping[str, Any] | None = None,
    temperature_c: Callable[[], float | None] = hottest_c,
) -> Measurement:
    """Measure the latency of `work`: warm up for `plan.warmup_s`, then run for at least `duration_s` and `min_runs`.

    With `plan.soak_s`, the machine is heated before.

    Args:
        conditions: the caller's facts about the model and the machine; the load of the machine is added.
        temperature_c: of the processor that runs `work`; None where it is not known.
    """
    receipt, clock = {**(conditions or {}), **plan.__dict__, **load_now()}, clock or WallClock()
    soaked = soak(work, plan.soak_s, temperature_c, clock) if plan.soak_s else None
    samples_ms = np.asarray(run_alone(work, plan, clock))
    return Measurement(samples_ms, plan, {**receipt, **conditions_of_soak(soaked)}, doubts=doubts_of_soak(soaked))


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


def _warnings(samples_ms: Samples) -> list[str]:
    warnings = []
    variation, change = coefficient_of_variation(samples_ms), drift(samples_ms)
    if variation > NOISY_ABOVE:
        warnings.append(f"the runs scatter by {variation:.0%} of their mean: other work, or throttling, disturbed them")
    if change > DRIFT_ABOVE:
        warnings.append(f"the last third was {change:.0%} slower than the first: the machine may have throttled")
    return warnings
