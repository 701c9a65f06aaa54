"""Energy for an image, above that of the machine at rest."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from edgevit.profiling.statistics import MOST_BLOCKS, Samples, Spread, spread_of_mean, students_t
from edgevit.profiling.telemetry import Processor, Telemetry

FEWEST_READINGS = 8  # of power, of the runs and at rest: fewer tell no scatter. Chosen
FEWEST_STARTS = 5  # with readings of power: so many tell the scatter, however few readings they have. Chosen
TOTAL = "total"  # the name of the module's power
NO_IDLE = "idle power was not measured (idle_s: 0)"
NO_POWER = "power was not sampled during the runs"
NOT_TOLD_APART = "the power of the runs is not told apart from that at rest"
MORE_AT_REST = "the machine took more power at rest than during the runs"


@dataclass(frozen=True)
class EnergyRecord:
    """The energy for an image, above that of the machine at rest.

    Attributes:
        mj: in mJ, with its 95% interval from `low_mj` to `high_mj`. With several starts, the interval is over starts;
            with one, over the time of its runs. The error of the meter itself is not in it.
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
    """Mean power (mW) of stretches of time.

    Attributes:
        start_s, end_s: of each stretch.
    """

    start_s: Samples
    end_s: Samples
    power_mw: Samples

    @property
    def seconds(self) -> Samples:
        return self.end_s - self.start_s


class _During(NamedTuple):
    """The readings of power during the runs of a start.

    Attributes:
        images: in the stretch of each reading, with parts of images.
    """

    readings: _Readings
    images: Samples


def energy_of_runs(
    starts: Sequence[tuple[Telemetry | None, Samples, float]],
    processor: Processor,
    images: int,
    label: str,
    invalid: tuple[str, ...],
) -> EnergyRecord | NoEnergy:
    """The energy for an image, from the power of the machine during the counted runs and at rest before them.

    Args:
        starts: of each start the state of the machine, the latency of each run in order, and the seconds from the start
            of the first run to the end of the last one. The machine rests before the first start.
        processor: the one that ran the model.
        images: in each run.
        label, invalid: of the latency.
    """
    telemetries = [telemetry for telemetry, _, _ in starts if telemetry is not None]
    if len(telemetries) < len(starts):
        return NoEnergy(NO_POWER)
    first = telemetries[0]
    name = TOTAL if first.of("power_mw", TOTAL) else processor
    if first.of("power_mw", name) is None:
        return NoEnergy(first.unmetered.get(processor, "the machine tells no power"))
    if first.idle is None:
        return NoEnergy(NO_IDLE)
    idle = _readings(first.idle, name)
    each = [
        _during(telemetry, name, samples_ms, seconds, images)
        for telemetry, (_, samples_ms, seconds) in zip(telemetries, starts, strict=True)
    ]
    during = [one for one in each if one.images.sum() > 0]
    count = sum(len(one.images) for one in during)
    if count < FEWEST_READINGS and len(during) < FEWEST_STARTS:
        fewer = ", or fewer starts" if len(starts) > 1 else ""
        return NoEnergy(_too_short(count, "during the runs", f"duration_s more{fewer}"))
    if len(idle.power_mw) < FEWEST_READINGS:
        return NoEnergy(_too_short(len(idle.power_mw), "at rest", "idle_s more"))
    mj, half_mj = _above_idle(during, idle)
    low_mj, high_mj = mj - half_mj, mj + half_mj
    return EnergyRecord(
        mj,
        low_mj,
        high_mj,
        _mean_mw([one.readings for one in during]) / 1e3,
        _mean_mw([idle]) / 1e3,
        count,
        first.boundaries.get(name, name),
        label,
        warnings=(NOT_TOLD_APART,) if low_mj <= 0 <= high_mj else (),
        invalid=(*invalid, *_disturbed_rest(first.idle), *((MORE_AT_REST,) if high_mj < 0 else ())),
    )


def _too_short(count: int, when: str, next_step: str) -> str:
    return f"too short: power was read {count} times {when}, of {FEWEST_READINGS}; give {next_step}"


def _during(telemetry: Telemetry, name: str, samples_ms: Samples, seconds: float, images: int) -> _During:
    """The readings of a start, and the images in the stretch of each."""
    readings = _readings(telemetry, name)
    ends_s = telemetry.window.start_s + seconds * np.concatenate(([0.0], np.cumsum(samples_ms) / samples_ms.sum()))
    runs = np.arange(len(ends_s))
    done = np.interp(readings.end_s, ends_s, runs) - np.interp(readings.start_s, ends_s, runs)
    return _During(readings, images * done)


def _readings(telemetry: Telemetry, name: str) -> _Readings:
    """The readings of power in the window, each with the stretch from the reading before it.

    The power of the module is that of a moment, so its first stretch begins with the window. A counter tells the mean
    over a stretch, so one that begins before the window is left out.
    """
    power = telemetry.of("power_mw", name)
    end_s, power_mw = (np.asarray(column, float) for column in ((power.time_s, power.values) if power else ((), ())))
    start_s = np.concatenate(([-math.inf], end_s))[:-1]
    if name == TOTAL:
        start_s = np.maximum(start_s, telemetry.window.start_s)
    inside = (start_s >= telemetry.window.start_s) & (end_s <= telemetry.window.end_s) & (end_s > start_s)
    return _Readings(start_s[inside], end_s[inside], power_mw[inside])


def _mean_mw(each: Sequence[_Readings]) -> float:
    """Mean power over all stretches."""
    energy_mj = sum(float(readings.power_mw @ readings.seconds) for readings in each)
    return energy_mj / sum(float(readings.seconds.sum()) for readings in each)


def _above_idle(during: Sequence[_During], idle: _Readings) -> tuple[float, float]:
    """Energy for an image above idle in mJ, and half of its 95% interval.

    The energy is a ratio of sums over the readings. Its variance is that of the residuals (Cochran 1977, 6.4), with
    that of the idle power. With several starts, the residuals are those of whole starts, which are independent. Both
    have Student's distribution with the degrees of freedom of Welch (1947).
    """
    idle_mw = _mean_mw([idle])
    above_mj = [(one.readings.power_mw - idle_mw) * one.readings.seconds for one in during]
    total = sum(float(one.images.sum()) for one in during)
    mj = sum(float(energies.sum()) for energies in above_mj) / total
    residuals = [energies - mj * one.images for energies, one in zip(above_mj, during, strict=True)]
    if len(residuals) > 1:
        whole = np.array([float(of_start.sum()) for of_start in residuals])
        of_runs = Spread(float(whole.var(ddof=1)) / len(whole), len(whole) - 1)
    else:
        (whole,) = residuals
        of_runs = spread_of_mean(whole, min(MOST_BLOCKS, len(whole)))
    at_rest = spread_of_mean(idle.power_mw, min(MOST_BLOCKS, len(idle.power_mw)))
    seconds = sum(float(one.readings.seconds.sum()) for one in during)
    variances = of_runs.variance * (len(whole) / total) ** 2, at_rest.variance * (seconds / total) ** 2
    variance = sum(variances)
    if variance == 0:
        return mj, 0.0
    parts = zip(variances, (of_runs.freedom, at_rest.freedom), strict=True)
    freedom = variance**2 / sum(part**2 / part_freedom for part, part_freedom in parts)
    return mj, students_t(freedom) * math.sqrt(variance)


def _disturbed_rest(idle: Telemetry) -> Iterator[str]:
    """A sentence, if other programs worked while the machine was to rest."""
    load = idle.load
    if load is not None and load.is_disturbing("cpu"):
        busy = f"{load.others:.1f} of {load.processors:.0f} processors"
        yield f"other programs kept {busy} busy while idle power was measured"
