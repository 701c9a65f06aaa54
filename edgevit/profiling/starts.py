"""One measurement over several fresh starts of a model: its interval holds what varies from start to start."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from edgevit.errors import EdgevitError
from edgevit.profiling.loop import MeasurePlan
from edgevit.profiling.measure import Measurement, drifted, stood_still
from edgevit.profiling.telemetry import Load, Series, Telemetry, Window

Take = Callable[[MeasurePlan], Measurement]


def measure_over_starts(take: Take, plan: MeasurePlan, starts: int) -> Measurement:
    """Measure a model in several starts, among which the time and the runs of the plan are divided.

    Where memory lies and which pages are large changes the speed of a process by some per cent, and stays as long as
    the process (Kalibera and Jones 2013). If a start fails, the starts before it are kept, and the latency is invalid.

    Args:
        take: measures in a fresh start.

    Raises:
        EdgevitError: the first start failed.
    """
    taken, broken = list[Measurement](), list[str]()
    for index in range(starts):
        try:
            taken.append(take(plan_of_start(plan, starts, index)))
        except EdgevitError as error:
            if not taken:
                raise
            broken.append(f"partial: start {index + 1} of {starts} failed ({error.what}{_got(error)})")
            break
        if taken[0].label == "replayed":  # each start would replay the same times
            break
    return merged(taken, plan, tuple(broken))


def plan_of_start(plan: MeasurePlan, starts: int, index: int) -> MeasurePlan:
    """The plan of a start, counted from 0. The machine rests and is heated before the first one; the longest warm-up
    of the others is shorter."""
    most_warmup_s = plan.most_warmup_s
    if index and most_warmup_s:
        most_warmup_s = max(most_warmup_s / starts, plan.warmup_s)
    return replace(
        plan,
        most_warmup_s=most_warmup_s,
        soak_s=plan.soak_s if index == 0 else 0.0,
        idle_s=plan.idle_s if index == 0 else 0.0,
        duration_s=plan.duration_s / starts,
        min_runs=math.ceil(plan.min_runs / starts),
    )


def merged(taken: Sequence[Measurement], plan: MeasurePlan, broken: tuple[str, ...] = ()) -> Measurement:
    """The measurement of all starts.

    Args:
        broken: reasons why it is not whole.
    """
    first, by_start = taken[0], [one.samples_ms for one in taken]
    telemetries = [one.telemetry for one in taken if one.telemetry]
    telemetry = joined(telemetries) if len(telemetries) == len(taken) else None
    spans = [one.seconds for one in taken if one.seconds is not None]
    samples_ms = np.concatenate(by_start)
    of_all = (*stood_still(samples_ms, plan), *drifted(by_start)) if len(taken) > 1 else ()
    return replace(
        first,
        samples_ms=samples_ms,
        plan=plan,
        conditions=_conditions(taken, plan, telemetry),
        doubts=_once(one.doubts for one in taken),
        telemetry=telemetry,
        disturbed=tuple(dict.fromkeys((*_once(one.disturbed for one in taken), *of_all, *broken))),
        parts_ms={name: float(np.median([one.parts_ms[name] for one in taken])) for name in first.parts_ms},
        seconds=sum(spans) if len(spans) == len(taken) else None,
        of_starts=tuple(taken) if len(taken) > 1 else (),
    )


def joined(telemetries: Sequence[Telemetry]) -> Telemetry:
    """The state of the machine over the counted runs of several programs, one after another.

    The time between the counted runs is left out, since a machine that loads a model is in another state.
    """
    first, last = telemetries[0], telemetries[-1]
    if len(telemetries) == 1:
        return first
    begins = np.cumsum([first.window.start_s, *(_length_s(one) for one in telemetries)]).tolist()
    series: dict[tuple[Any, str], list[tuple[float, float]]] = {}
    for telemetry, begin_s in zip(telemetries, begins, strict=False):
        shift_s = begin_s - telemetry.window.start_s
        kept = Window(
            0.0 if telemetry is first else telemetry.window.start_s,
            telemetry.seconds if telemetry is last else telemetry.window.end_s,
        )
        for one in telemetry.series:
            inside = one.between(kept)
            readings = zip((time_s + shift_s for time_s in inside.time_s), inside.values, strict=True)
            series.setdefault((one.kind, one.name), []).extend(readings)
    causes = dict.fromkeys(cause for one in telemetries for cause in one.throttled)
    return replace(
        first,
        series=tuple(Series(*sensor, *_columns(readings)) for sensor, readings in series.items()),
        window=Window(begins[0], begins[-1]),
        seconds=begins[-1] + last.seconds - last.window.end_s,
        throttled={cause: sum(one.throttled.get(cause, 0) for one in telemetries) for cause in causes},
        sampler_cpu_s=sum(one.sampler_cpu_s * _length_s(one) / one.seconds for one in telemetries if one.seconds),
        load=_summed([one.load for one in telemetries]),
    )


def _conditions(taken: Sequence[Measurement], plan: MeasurePlan, telemetry: Telemetry | None) -> dict[str, Any]:
    """Those of the first start, with the whole plan, and what was summed over the starts."""
    first, seconds = taken[0].conditions, [float(one.samples_ms.sum()) for one in taken]
    busy = [one.conditions.get("cpus_used") for one in taken]
    cpus_used = None if None in busy else float(np.average(np.asarray(busy, float), weights=seconds))
    changed: dict[str, Any] = {"cpus_used": cpus_used} if "cpus_used" in first else {}
    changed |= {"telemetry": telemetry.summary()} if telemetry and "telemetry" in first else {}
    return {**first, **vars(plan), **changed, "starts": len(taken)}


def _length_s(telemetry: Telemetry) -> float:
    return telemetry.window.end_s - telemetry.window.start_s


def _columns(readings: Sequence[tuple[float, float]]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return tuple(time_s for time_s, _ in readings), tuple(value for _, value in readings)


def _summed(loads: Sequence[Load | None]) -> Load | None:
    known = [load for load in loads if load is not None]
    return Load(*map(sum, zip(*known, strict=True))) if len(known) == len(loads) else None


def _once(starts: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """The sentences of all starts. Of those that differ in their numbers alone, the first one."""
    alike: dict[str, list[str]] = {}
    for sentence in (sentence for start in starts for sentence in start):
        alike.setdefault(re.sub(r"\d+([.,]\d+)*", "#", sentence), []).append(sentence)
    return tuple(
        same[0] if len(set(same)) == 1 else f"{same[0]} (the first of {len(same)} starts that say so)"
        for same in alike.values()
    )


def _got(error: EdgevitError) -> str:
    return f": {error.got}" if error.got else ""
