"""Races: models measured in turns, and the latency of the first over that of each other one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgevit.profiling.loop import SHORTEST_MS, Clock, MeasurePlan, Opener, Turns, WallClock, run_in_turns
from edgevit.profiling.measure import Label, Measurement, load_now
from edgevit.profiling.statistics import Interval, Samples, nearest_rank, ratio_over_starts
from edgevit.profiling.telemetry import Telemetry

CONFIDENCE = 0.95  # of all intervals of a race together


@dataclass(frozen=True)
class Comparison:
    """Two models of a race: latency of `a` over latency of `b`, with its interval over starts.

    Attributes:
        confidence: that the interval holds the ratio. `confidence_of_each` gives it from the number of models.
        of_starts: the ratio of each start; `ratio` is their typical value.
    """

    a: Measurement
    b: Measurement
    ratio: float
    interval: Interval
    confidence: float = CONFIDENCE
    of_starts: tuple[float, ...] = ()

    @property
    def invalid(self) -> tuple[str, ...]:
        """Reasons why the ratio is none of the device in its stated mode. Both models share them."""
        return self.a.invalid

    @property
    def is_replayed(self) -> bool:
        """Whether the times are recorded ones, which say nothing about the models."""
        return self.a.label == "replayed"


def interleaved(openers: Sequence[Opener], plan: MeasurePlan, clock: Clock | None = None) -> tuple[Comparison, ...]:
    """Measure models in turns, and compare the first with each other. Each of `loop.STARTS` starts loads all anew.

    Within a start the models take turns (two of them ABBA), so that drifting clocks and busy neighbors hit all alike.
    Between starts their weights and buffers move in memory, which changes the speed of small models by some per cent; a
    single start would mistake this for a difference (Kalibera and Jones 2013). The interval is therefore over starts.

    Args:
        openers: each call loads a model and yields a function that runs it once; closed at the end of the start.
        plan: `duration_s`, `warmup_s` and `min_runs` are per model, divided among the starts.
    """
    load = load_now()
    return comparisons_of_turns(run_in_turns(openers, plan, clock or WallClock()), plan, load)


def comparisons_of_turns(
    starts: Sequence[Turns],
    plan: MeasurePlan,
    conditions: Mapping[str, Any],
    label: Label = "measured",
    telemetry: Telemetry | None = None,
    doubts: tuple[str, ...] = (),
) -> tuple[Comparison, ...]:
    """The comparison of the first model with each other, from the latencies that `run_in_turns` gives.

    Args:
        telemetry: of the whole program. Clocks fall while a model is loaded, so they are left out.
        doubts: of all timings.
    """
    models = len(starts[0])
    order = "ABBA" if models == 2 else "there and back, rotated from start to start"
    receipt = {**plan.__dict__, "order": order, "starts": len(starts), **conditions}
    first, *others = (
        Measurement(
            np.concatenate(latencies_ms), plan, receipt, label, doubts, telemetry and telemetry.without_clocks()
        )
        for latencies_ms in zip(*starts, strict=True)
    )
    confidence, ratios = confidence_of_each(models - 1), [_median_ratios(starts, index) for index in range(1, models)]
    return tuple(
        Comparison(first, other, *ratio_over_starts(of_starts, confidence), confidence, of_starts)
        for other, of_starts in zip(others, ratios, strict=True)
    )


def confidence_of_each(comparisons: int) -> float:
    """The confidence of each interval, so that all hold together with `CONFIDENCE` (Bonferroni); 0.95 for one."""
    return 1 - (1 - CONFIDENCE) / comparisons


def _median_ratios(starts: Sequence[Turns], index: int) -> tuple[float, ...]:
    """The first model's p50 over the p50 of another one, for each start."""
    return tuple(_p50_ms(np.asarray(turns[0])) / _p50_ms(np.asarray(turns[index])) for turns in starts)


def _p50_ms(latencies_ms: Samples) -> float:
    return max(nearest_rank(latencies_ms, 50), SHORTEST_MS)
