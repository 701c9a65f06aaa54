"""Energy for an image, above that of the machine at rest."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgevit.profiling.statistics import MOST_BLOCKS, Samples, spread_of_mean, students_t
from edgevit.profiling.telemetry import NOT_SAMPLED, Processor, Series, Telemetry

FEWEST_READINGS = 8  # of power, of the runs and at rest: fewer tell no scatter. Chosen
NO_IDLE = "idle power was not measured (idle_s: 0)"
NOT_TOLD_APART = "the power of the runs is not told apart from that at rest"
MORE_AT_REST = "the machine took more power at rest than during the runs"


@dataclass(frozen=True)
class EnergyRecord:
    """The energy for an image, above that of the machine at rest.

    Attributes:
        mj: in mJ, with its 95% interval from `low_mj` to `high_mj`. The interval is of the scatter of power over time.
            The error of the meter itself is not in it.
        power_w, idle_w: mean power during the runs, and at rest before them.
        readings: of power during the runs.
        boundary: what the power is of, such as the module, or the CPU package; for people.
        label: "measured" or "replayed".
        warnings: doubts, a sentence each, without a full stop.
        invalid: reasons why it is no energy of the model alone, a sentence each.
    """

    mj: float
    low_mj: float
    high_mj: float
    power_w: float
    idle_w: float
    readings: int
    boundary: str
    label: str
    warnings: tuple[str, ...] = ()
    invalid: tuple[str, ...] = ()

    @property
    def is_above_rest(self) -> bool:
        """Whether the power of the runs is told apart from that at rest: the interval is above 0."""
        return self.low_mj > 0

    @property
    def is_judged(self) -> bool:
        """Whether a budget is judged by it."""
        return self.label == "measured" and not self.invalid and self.is_above_rest

    @classmethod
    def of_numbers(cls, numbers: Mapping[str, Any]) -> EnergyRecord:
        """The record of which `numbers` are the numbers."""
        lists = {name: tuple(numbers[name]) for name in ("warnings", "invalid")}
        return cls(**{**numbers, **lists})

    def numbers(self) -> dict[str, Any]:
        """The fields as `energy_mj` of metrics and of report.json holds them."""
        return {**asdict(self), "warnings": list(self.warnings), "invalid": list(self.invalid)}


@dataclass(frozen=True)
class NoEnergy:
    """The energy was not measured.

    Attributes:
        reason: a sentence, without a full stop.
    """

    reason: str


def metrics_of_energy(energy: EnergyRecord | NoEnergy) -> dict[str, Any]:
    """The energy for the metrics of a latency: `energy_mj`, and `no_energy` with the reason why there is none."""
    if isinstance(energy, NoEnergy):
        return {"energy_mj": None, "no_energy": energy.reason}
    return {"energy_mj": energy.numbers(), "no_energy": None}


def energy_in(metrics: Mapping[str, Any]) -> EnergyRecord | NoEnergy | None:
    """The energy in the metrics of a latency; None if an older release wrote them."""
    if numbers := metrics.get("energy_mj"):
        return EnergyRecord.of_numbers(numbers)
    return NoEnergy(metrics["no_energy"]) if metrics.get("no_energy") else None


@dataclass(frozen=True)
class _Readings:
    """Mean power (mW) of stretches of time that follow one another.

    Attributes:
        start_s, end_s: of each stretch.
    """

    start_s: Samples
    end_s: Samples
    power_mw: Samples

    @property
    def seconds(self) -> Samples:
        return self.end_s - self.start_s

    @property
    def mean_mw(self) -> float:
        return float(self.power_mw @ self.seconds / self.seconds.sum())


def energy_of_runs(
    telemetry: Telemetry | None,
    processor: Processor,
    samples_ms: Samples,
    seconds: float,
    images: int,
    label: str,
    invalid: tuple[str, ...],
) -> EnergyRecord | NoEnergy:
    """The energy for an image, from the power of the machine during the counted runs and at rest before them.

    Args:
        processor: the one that ran the model.
        samples_ms: latency of each run, in order.
        seconds: from the start of the first run to the end of the last one.
        images: in each run.
        label, invalid: of the latency.
    """
    if telemetry is None:
        return NoEnergy(NOT_SAMPLED)
    name = "total" if telemetry.of("power_mw", "total") else processor
    power = telemetry.of("power_mw", name)
    if power is None:
        return NoEnergy(telemetry.unmetered.get(processor, "the machine tells no power"))
    if telemetry.idle is None:
        return NoEnergy(NO_IDLE)
    during, idle = _readings(power, telemetry), _readings(telemetry.idle.of("power_mw", name), telemetry.idle)
    for what, readings, option in (("during the runs", during, "duration_s"), ("at rest", idle, "idle_s")):
        if len(readings.power_mw) < FEWEST_READINGS:
            count = len(readings.power_mw)
            return NoEnergy(f"too short: power was read {count} times {what}, of {FEWEST_READINGS}; give {option} more")
    done = images * _runs_within(during, telemetry.window.start_s, samples_ms, seconds)
    if done.sum() <= 0:
        return NoEnergy("no run lies between two readings of power")
    mj, half_mj = _above_idle(during, idle, done)
    low_mj, high_mj = mj - half_mj, mj + half_mj
    return EnergyRecord(
        mj,
        low_mj,
        high_mj,
        during.mean_mw / 1e3,
        idle.mean_mw / 1e3,
        len(during.power_mw),
        telemetry.boundaries.get(name, name),
        label,
        warnings=(NOT_TOLD_APART,) if low_mj <= 0 <= high_mj else (),
        invalid=(*invalid, *_disturbed_rest(telemetry.idle), *((MORE_AT_REST,) if high_mj < 0 else ())),
    )


def _readings(power: Series | None, telemetry: Telemetry) -> _Readings:
    """The readings of power in the window, each with the stretch from the reading before it."""
    empty = np.zeros(0)
    if power is None or len(power.values) < 2:
        return _Readings(empty, empty, empty)
    times, values = np.asarray(power.time_s), np.asarray(power.values)
    start_s, end_s = times[:-1], times[1:]
    inside = (start_s >= telemetry.window.start_s) & (end_s <= telemetry.window.end_s) & (end_s > start_s)
    return _Readings(start_s[inside], end_s[inside], values[1:][inside])


def _runs_within(readings: _Readings, start_s: float, samples_ms: Samples, seconds: float) -> Samples:
    """The number of runs in the stretch of each reading, with parts of runs."""
    ends_s = start_s + seconds * np.concatenate(([0.0], np.cumsum(samples_ms) / samples_ms.sum()))
    runs = np.arange(len(ends_s))
    return np.interp(readings.end_s, ends_s, runs) - np.interp(readings.start_s, ends_s, runs)


def _above_idle(during: _Readings, idle: _Readings, images: Samples) -> tuple[float, float]:
    """Energy for an image above idle in mJ, and half of its 95% interval.

    The energy is a ratio of sums over the readings. Its variance is that of the readings' residuals (Cochran 1977,
    6.4), with that of the idle power. Both have Student's distribution with the degrees of freedom of Welch (1947).
    """
    above_mj = (during.power_mw - idle.mean_mw) * during.seconds
    total = float(images.sum())
    mj = float(above_mj.sum()) / total
    residuals = spread_of_mean(above_mj - mj * images, min(MOST_BLOCKS, len(images)))
    at_rest = spread_of_mean(idle.power_mw, min(MOST_BLOCKS, len(idle.power_mw)))
    variances = (
        residuals.variance * (len(images) / total) ** 2,
        at_rest.variance * (float(during.seconds.sum()) / total) ** 2,
    )
    variance = sum(variances)
    if variance == 0:
        return mj, 0.0
    parts = zip(variances, (residuals.freedom, at_rest.freedom), strict=True)
    freedom = variance**2 / sum(part**2 / part_freedom for part, part_freedom in parts)
    return mj, students_t(freedom) * math.sqrt(variance)


def _disturbed_rest(idle: Telemetry) -> Iterator[str]:
    """A sentence, if other programs worked while the machine was to rest."""
    load = idle.load
    if load is not None and load.is_disturbing("cpu"):
        busy = f"{load.others:.1f} of {load.processors:.0f} processors"
        yield f"other programs kept {busy} busy while idle power was measured"
