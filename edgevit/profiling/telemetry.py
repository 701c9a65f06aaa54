"""The state of the machine during a measurement: temperatures, clocks, power, other load; and what it says about it.

Each threshold stands here once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from edgevit.profiling.loop import STEADY_C_PER_MIN

Kind = Literal["temperature_c", "clock_mhz", "power_mw", "other_load", "stolen"]
Processor = Literal["cpu", "gpu"]

TELEMETRY_FILE = "telemetry.json"  # of a latency: all samples
# Of the highest clock. Chosen: above the steps by which a locked clock is shown (1,016 to 1,018 MHz).
CLOCK_FALLS = 0.10
# Processors that other programs keep busy on average. Chosen: a virtual machine, or a desktop, at rest needs less.
OTHER_LOAD: Mapping[Processor, float] = {"cpu": 0.1, "gpu": 0.5}
OTHER_LOAD_EACH = 0.005  # of each processor in addition. Chosen: a server at rest has more daemons than a board
STOLEN = 0.02  # of the time that processors were to work. Chosen: what measurements should agree within
RISE_C = 1.0  # during the measurement. Chosen: twice the coarsest step of a Jetson's sensors, 0.5 °C
FEWEST = 3  # values, below which nothing is judged. Chosen
TICK_S = 0.01  # of the kernel's counters of processor time: USER_HZ is 100 on x86 and on ARM
STOLEN_S = 2 * TICK_S  # that the counters do not resolve, in addition to STOLEN
BLUR = 0.5  # processors by which a load may be wrong and still be judged; of many, BLUR_EACH of each. Chosen
BLUR_EACH = 0.05
NOT_SAMPLED = "the machine's state was not sampled during the runs: throttling would not be seen"
LOAD_NOT_SAMPLED = "the processor time of other programs was not sampled during the runs: their load would not be seen"

TITLES: dict[Processor, str] = {"cpu": "CPU", "gpu": "GPU"}


@dataclass(frozen=True)
class Series:
    """One sensor over time.

    Attributes:
        kind: with the unit. `other_load` is the share of all processors that other programs used, 0 to 1; `stolen` the
            share of their busy time in which the machine's host ran other machines. Both are from one sample to the
            next, for a picture: `Load` judges.
        name: the sensor, such as tj, gpu, VDD_IN. The power `total` is that of the module; the powers `cpu` and `gpu`
            are means since the sample before, by energy counters.
        time_s: seconds from the start of the program.
    """

    kind: Kind
    name: str
    time_s: tuple[float, ...]
    values: tuple[float, ...]

    def between(self, window: Window) -> Series:
        """The values within a window."""
        inside = [
            pair for pair in zip(self.time_s, self.values, strict=True) if window.start_s <= pair[0] <= window.end_s
        ]
        times, values = zip(*inside, strict=True) if inside else ((), ())
        return Series(self.kind, self.name, times, values)

    @property
    def slope_per_min(self) -> float | None:
        """The slope of a line through the values (least squares), per minute; None for fewer than FEWEST values."""
        if len(self.values) < FEWEST or self.time_s[-1] <= self.time_s[0]:
            return None
        return float(np.polyfit(np.asarray(self.time_s), np.asarray(self.values), 1)[0] * 60)


class Window(NamedTuple):
    """The time of the counted runs, in seconds from the start of the program."""

    start_s: float
    end_s: float


class Load(NamedTuple):
    """Processor time between a reading of the kernel's counters before the counted runs and one after them, in s.

    Attributes:
        seconds: between the two readings.
        capacity_s: of all processors together.
        own_s: of the timed program and of the sampler.
        others_s: of all other programs. The counters' noise may make it negative.
        stolen_s: time in which processors were to work, and the host of this virtual machine ran other machines.
    """

    seconds: float
    capacity_s: float
    own_s: float
    others_s: float
    stolen_s: float

    @property
    def processors(self) -> float:
        """The number of processors."""
        return self.capacity_s / self.seconds

    @property
    def others(self) -> float:
        """Processors that other programs kept busy on average."""
        return max(0.0, self.others_s / self.seconds)

    @property
    def blur(self) -> float:
        """Two standard errors of `others`, in processors.

        Most kernels count the time of all programs by looking once a tick (binomial), and that of one program exactly.
        """
        own = min(max(self.own_s / self.capacity_s, 0.0), 1.0)
        return 2 * math.sqrt(TICK_S * self.capacity_s * own * (1 - own)) / self.seconds

    @property
    def is_blurred(self) -> bool:
        """Whether the time between the readings was too short to tell the load of other programs."""
        return self.blur > max(BLUR, BLUR_EACH * self.processors)

    @property
    def wanted_s(self) -> float:
        """Time in which processors were to work."""
        return self.own_s + self.others_s + self.stolen_s

    @property
    def is_stolen(self) -> bool:
        """Whether the host took more of the wanted time than STOLEN, beyond what the counters resolve."""
        return self.stolen_s > STOLEN * self.wanted_s + STOLEN_S

    def is_disturbing(self, processor: Processor) -> bool:
        """Whether other programs slow a model on this processor, beyond the counters' noise."""
        return self.others > OTHER_LOAD[processor] + OTHER_LOAD_EACH * self.processors + self.blur


@dataclass(frozen=True)
class Telemetry:
    """What was sampled while a program ran that measures.

    Attributes:
        seconds: how long the program ran.
        junction: the name of the temperature to watch; None without temperatures.
        throttled: cause → events during the measurement, of the causes that the machine counts.
        sampler_cpu_s: processor time that the sampling took.
        load: of the processors during the counted runs; None where their counters cannot be read.
        idle: of the machine at rest, before the program. Its window is the time over which idle power is measured. None
            if the machine did not rest.
        boundaries: what each power is of that energy is taken from: `total`, `cpu` or `gpu` → for people.
        unmetered: why the energy of a processor cannot be measured, a sentence each, without a full stop.
    """

    series: tuple[Series, ...]
    window: Window
    seconds: float
    junction: str | None = None
    throttled: Mapping[str, int] = field(default_factory=dict)
    sampler_cpu_s: float = 0.0
    load: Load | None = None
    idle: Telemetry | None = None
    boundaries: Mapping[str, str] = field(default_factory=dict)
    unmetered: Mapping[Processor, str] = field(default_factory=dict)

    def of(self, kind: Kind, name: str | None = None) -> Series | None:
        """The series of a sensor; None if it was not sampled."""
        return next((one for one in self.series if one.kind == kind and name in (None, one.name)), None)

    @property
    def watched(self) -> Series | None:
        """The temperature of the junction."""
        return self.of("temperature_c", self.junction) if self.junction else None

    def without_clocks(self) -> Telemetry:
        """The telemetry without the clocks."""
        return replace(self, series=tuple(one for one in self.series if one.kind != "clock_mhz"))

    def invalid(self, processor: Processor) -> tuple[str, ...]:
        """Reasons why the measurement is not one of the device in its stated mode, a sentence each."""
        return tuple(_invalid(self, processor))

    def doubts(self, processor: Processor) -> tuple[str, ...]:
        """Other reasons to doubt the measurement, a sentence each."""
        return tuple(_doubts(self, processor))

    def summary(self) -> dict[str, Any]:
        """The conditions: each sensor before, during and after the counted runs."""
        return {
            "window_s": [round(time, 3) for time in self.window],
            "seconds": round(self.seconds, 3),
            "junction": self.junction,
            "throttled": dict(self.throttled),
            "sampler_cpu_share": round(self.sampler_cpu_s / self.seconds, 4) if self.seconds else None,
            "load": self.load and {name: _rounded(value) for name, value in self.load._asdict().items()},
            "sensors": [_summary(one, self.window) for one in self.series if one.values],
        }

    def as_json(self) -> dict[str, Any]:
        """All samples."""
        return {
            "schema_version": 1,
            "window_s": list(self.window),
            "seconds": self.seconds,
            "junction": self.junction,
            "throttled": dict(self.throttled),
            "sampler_cpu_s": self.sampler_cpu_s,
            "load": self.load and self.load._asdict(),
            "series": [
                {"kind": one.kind, "name": one.name, "time_s": list(one.time_s), "values": list(one.values)}
                for one in self.series
            ],
            "idle": self.idle and self.idle.as_json(),
            "boundaries": dict(self.boundaries),
            "unmetered": dict(self.unmetered),
        }

    @classmethod
    def of_json(cls, content: Mapping[str, Any]) -> Telemetry:
        """The telemetry in the content of a file that `as_json` made.

        Older releases did not write `load`, nor what belongs to energy.
        """
        series = (
            Series(one["kind"], one["name"], tuple(one["time_s"]), tuple(one["values"])) for one in content["series"]
        )
        return cls(
            tuple(series),
            Window(*content["window_s"]),
            content["seconds"],
            content["junction"],
            content["throttled"],
            content["sampler_cpu_s"],
            Load(**load) if (load := content.get("load")) else None,
            cls.of_json(idle) if (idle := content.get("idle")) else None,
            content.get("boundaries", {}),
            content.get("unmetered", {}),
        )


def _invalid(telemetry: Telemetry, processor: Processor) -> Iterator[str]:
    for cause, events in telemetry.throttled.items():
        if events:
            yield f"the machine throttled while it was measured: {cause}, {events} event{'s' if events > 1 else ''}"
    if processor == "cpu":
        yield from _of_load(telemetry.load, processor)
    # A CPU's clock turns with the load of each moment, so a fall of it is a doubt.
    if processor == "gpu" and (fall := _fall_of_clock(telemetry, processor)):
        yield fall


def _doubts(telemetry: Telemetry, processor: Processor) -> Iterator[str]:
    if telemetry.load is None:
        yield LOAD_NOT_SAMPLED if any(one.values for one in telemetry.series) else NOT_SAMPLED
    elif telemetry.load.is_blurred:
        yield (
            f"the runs lasted {telemetry.load.seconds:.2g} s: a load of other programs below {telemetry.load.blur:.1f} "
            "processors would not be seen"
        )
    if processor == "cpu" and (fall := _fall_of_clock(telemetry, processor)):
        yield fall
    if watched := telemetry.watched:
        during = watched.between(telemetry.window)
        slope = during.slope_per_min
        rise = 0 if slope is None else slope * (during.time_s[-1] - during.time_s[0]) / 60
        if slope is not None and slope > STEADY_C_PER_MIN and rise > RISE_C:
            yield (
                f"the temperature of {watched.name} rose by {rise:.1f} °C while the runs were timed: later runs may be "
                "slower (soak_s heats the machine before)"
            )
    if processor == "gpu":
        yield from _of_load(telemetry.load, processor)


def _of_load(load: Load | None, processor: Processor) -> Iterator[str]:
    if load is not None and load.is_disturbing(processor):
        busy = f"{load.others:.1f} of {load.processors:.0f} processors"
        yield f"other programs kept {busy} busy while the runs were timed"
    if load is not None and load.is_stolen:
        share = load.stolen_s / load.wanted_s
        yield f"the host of this virtual machine took {share:.0%} of its time while the runs were timed"


def _fall_of_clock(telemetry: Telemetry, processor: Processor) -> str | None:
    clock = telemetry.of("clock_mhz", processor)
    during: Sequence[float] = clock.between(telemetry.window).values if clock else ()
    if len(during) < FEWEST or min(during) >= (1 - CLOCK_FALLS) * max(during):
        return None
    return (
        f"the clock of the {TITLES[processor]} moved between {min(during):,.0f} and {max(during):,.0f} MHz while the "
        "runs were timed: lock the clocks, or cool the machine"
    )


def _summary(series: Series, window: Window) -> dict[str, Any]:
    during = series.between(window)
    values = during.values
    slope = during.slope_per_min
    return {
        "kind": series.kind,
        "name": series.name,
        "before": _rounded(series.values[0]),
        "min": _rounded(min(values)) if values else None,
        "median": _rounded(float(np.median(values))) if values else None,
        "max": _rounded(max(values)) if values else None,
        "after": _rounded(series.values[-1]),
        "slope_per_min": None if slope is None else _rounded(slope),
        "n": len(values),
    }


def _rounded(value: float) -> float:
    return round(value, 3)
