"""Telemetry of a job that measures: the sampler travels with the job, and its file is read here.

What comes back was written on another machine: it may hold anything. Content that is no telemetry gives None.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field, ValidationError

from edgevit.artifacts import Frozen, Json
from edgevit.errors import TargetError
from edgevit.profiling.loop import STEADY_C_PER_MIN, STEADY_OVER_S, Soak
from edgevit.profiling.telemetry import NOT_SAMPLED, TICK_S, Kind, Load, Processor, Series, Telemetry, Window
from edgevit.targets.agent import sampler
from edgevit.targets.boards import HostFacts
from edgevit.targets.boards.clocks import cpu_clocks, gpu_clocks, whole_number
from edgevit.targets.boards.heat import firmware_causes, junction, temperatures_c, throttle_events, zone_name
from edgevit.targets.boards.rails import rails_mw
from edgevit.targets.boards.tegrastats import NOT_CONNECTED, TegrastatsSample, sample_of_line, total_power_mw
from edgevit.targets.energy_counters import EnergyCounters, why_unmetered
from edgevit.targets.jobs import Job

SAMPLER = "sampler.py"
LARGEST_TELEMETRY = 2**25  # bytes
MOST_SAMPLES = sampler.MOST_SAMPLES + sampler.LATEST

_Text = Annotated[str, Field(max_length=sampler.LONGEST_LINE)]
_Seconds = Annotated[float, Field(ge=0, le=1e7, allow_inf_nan=False)]
_OwnTicks = Annotated[int, Field(ge=0, le=2**62)]
_Files = Mapping[str, str]
_Sensor = tuple[Kind, str]
_Readings = dict[_Sensor, float]

CPU_CLOCK: _Sensor = ("clock_mhz", "cpu")
GPU_CLOCK: _Sensor = ("clock_mhz", "gpu")
TOTAL_POWER: _Sensor = ("power_mw", "total")


class _AtRest(Frozen):
    """What the sampler has read of a machine."""

    seconds: _Seconds
    sampler_cpu_s: _Seconds
    fixed: dict[str, _Text] = Field(max_length=sampler.MOST_FILES)
    paths: list[_Text] = Field(max_length=sampler.MOST_FILES)
    samples: list[tuple[_Seconds, _OwnTicks, list[_Text | None]]] = Field(max_length=MOST_SAMPLES)
    lines: list[tuple[_Seconds, _Text]] = Field(max_length=MOST_SAMPLES)
    denied: list[_Text] = Field([], max_length=sampler.MOST_FILES)
    is_virtual: bool = False


class _Sampled(_AtRest):
    """The content of the sampler's file."""

    idle: _AtRest | None = None
    written: dict[str, Annotated[float, Field(ge=-1e12, le=1e7, allow_inf_nan=False)]]


class _Moment(NamedTuple):
    """What the files said at a time, with those that do not change."""

    time_s: float
    own_ticks: int
    files: _Files


def sampled(job: Job, python: Sequence[str], idle_s: float = 0.0, processor: Processor = "cpu") -> Job:
    """The job with its program under the sampler.

    Args:
        python: the command that starts Python there.
        idle_s: `MeasurePlan.idle_s`.
        processor: what runs the model.
    """
    return replace(
        job,
        files={**job.files, SAMPLER: Path(sampler.__file__)},
        arguments=(*python, "-B", SAMPLER, str(idle_s), processor, *job.arguments),
        timeout_s=job.timeout_s + (sampler.SETTLE_S + idle_s if idle_s else 0),
        outputs={**job.outputs, sampler.TELEMETRY: LARGEST_TELEMETRY},
    )


def sampled_content(files: Mapping[str, Path]) -> bytes | None:
    """The content of the sampler's file among the files of a job; None if it did not come."""
    file = files.get(sampler.TELEMETRY)
    return file.read_bytes() if file else None


def telemetry_in(
    content: bytes | None, ends_with: str, counted_s: float, total_rails: tuple[str, ...]
) -> Telemetry | None:
    """The telemetry in the file that a sampled job has left; None if there is none, or it cannot be read.

    Args:
        content: None where the file did not come.
        ends_with: the file that the program writes as soon as the counted runs have ended.
        counted_s: how long the counted runs lasted; infinite for the whole program.
        total_rails: `Board.total_rails`.
    """
    if content is None:
        return None
    try:
        read = _Sampled.model_validate_json(content)
    except ValidationError:
        return None
    idle = read.idle
    if any(len(texts) != len(part.paths) for part in (read, idle) if part for _, _, texts in part.samples):
        return None
    rest = None
    if idle is not None:
        rest = _telemetry(idle, Window(min(sampler.SETTLE_S, idle.seconds), idle.seconds), total_rails)
    return replace(_telemetry(read, _counted(read, ends_with, counted_s), total_rails), idle=rest)


def _telemetry(read: _AtRest, counted: Window, total_rails: tuple[str, ...]) -> Telemetry:
    moments = _moments(read)
    counters = EnergyCounters.of_files({**read.fixed, **dict.fromkeys(read.paths, "")}, read.denied)
    of_tegrastats = [(time_s, _of_line(sample, total_rails)) for time_s, sample in _lines(read)]
    of_files = [(moment.time_s, _of_files(moment.files, total_rails)) for moment in moments]
    series = (
        *_merged(_series(of_tegrastats), _series(of_files)),
        *_series(_shares(moments)).values(),
        *_series(_counted_power(moments, counters)).values(),
    )
    last_c = {one.name: one.values[-1] for one in series if one.kind == "temperature_c"}
    has_rails = any(one.kind == "power_mw" and one.name not in counters.paths for one in series)
    boundaries = dict(counters.boundaries)
    if total_rails:
        boundaries["total"] = f"module ({total_rails[0]})" if len(total_rails) == 1 else "module (sum of its rails)"
    return Telemetry(
        series,
        _without_rest(counted),
        read.seconds,
        junction(last_c),
        _throttled(moments, counted),
        read.sampler_cpu_s,
        _load(moments, counted),
        boundaries=boundaries,
        unmetered=why_unmetered(counters, read.denied, read.is_virtual, has_rails),
    )


def soak_in_runs(run_for: Callable[[float], Telemetry | None], soak_s: float, each_s: float = STEADY_OVER_S) -> Soak:
    """Load a machine in runs of a program, until the temperature is steady over a run, and for at most `soak_s`.

    Args:
        run_for: runs the program for some seconds, and returns the state of the machine meanwhile.
        each_s: length of a run. A shorter last run tells no slope.
    """
    seconds, start_c, end_c, slope = 0.0, None, None, None
    while seconds < soak_s:
        run_s = min(each_s, soak_s - seconds)
        telemetry = run_for(run_s)
        seconds += run_s
        watched = telemetry.watched if telemetry else None
        if telemetry is None or watched is None:
            continue
        start_c, end_c = watched.values[0] if start_c is None else start_c, watched.values[-1]
        slope = watched.between(telemetry.window).slope_per_min if run_s == each_s else slope
        if slope is not None and abs(slope) < STEADY_C_PER_MIN:
            return Soak(seconds, start_c, end_c, slope, is_steady=True)
    return Soak(seconds, start_c, end_c, slope, is_steady=False)


def conditions_of(facts: HostFacts) -> Json:
    """Facts about a machine that belong to a timing."""
    return {
        "board": facts.model,
        "module": facts.module,
        "jetpack": facts.jetpack,
        "power_mode": facts.power_mode and facts.power_mode.name,
        "clocks_locked": facts.clocks_locked,
        "temperatures_c_before": dict(facts.temperatures_c),
    }


def total_rails_of(facts: HostFacts) -> tuple[str, ...]:
    """The power rails of the whole module; empty for a machine that is not in the table."""
    return facts.board.total_rails if facts.board else ()


def conditions_of_telemetry(telemetry: Telemetry | None) -> Json:
    """The machine before, during and after the counted runs, for the conditions of a timing."""
    return {"telemetry": telemetry and telemetry.summary()}


def doubts_of_telemetry(telemetry: Telemetry | None) -> tuple[str, ...]:
    """A sentence, if there is none."""
    return () if telemetry else (NOT_SAMPLED,)


def _moments(read: _AtRest) -> list[_Moment]:
    moments = []
    for time_s, ticks, texts in sorted(read.samples, key=lambda sample: sample[0]):
        files = {path: text for path, text in zip(read.paths, texts, strict=True) if text is not None}
        moments.append(_Moment(time_s, ticks, {**read.fixed, **files}))
    return moments


def _lines(read: _AtRest) -> Iterator[tuple[float, TegrastatsSample]]:
    for time_s, line in sorted(read.lines):
        with suppress(TargetError):  # no line of tegrastats
            yield time_s, sample_of_line(line)


def _counted(read: _Sampled, ends_with: str, counted_s: float) -> Window:
    """The counted runs, to their end."""
    end_s = min(max(read.written.get(ends_with, read.seconds), 0.0), read.seconds)
    return Window(max(0.0, end_s - counted_s), end_s)


def _without_rest(counted: Window) -> Window:
    """The counted runs without the last interval of a long measurement: in it, the machine begins to rest."""
    is_long = counted.end_s - counted.start_s > 4 * sampler.INTERVAL_S
    return counted._replace(end_s=counted.end_s - sampler.INTERVAL_S) if is_long else counted


def _series(readings: Iterable[tuple[float, _Readings]]) -> dict[_Sensor, Series]:
    """The series of each sensor, from the readings of all sensors at each time."""
    by_sensor: dict[_Sensor, list[tuple[float, float]]] = {}
    for time_s, values in readings:
        for sensor, value in values.items():
            by_sensor.setdefault(sensor, []).append((time_s, value))
    return {
        sensor: Series(*sensor, tuple(time_s for time_s, _ in pairs), tuple(value for _, value in pairs))
        for sensor, pairs in by_sensor.items()
    }


def _merged(of_tegrastats: Mapping[_Sensor, Series], of_files: Mapping[_Sensor, Series]) -> Iterable[Series]:
    """One series of each sensor. The kernel's files know the clock of the CPU better, and tegrastats all others."""
    return {**of_files, **of_tegrastats, **{key: of_files[key] for key in (CPU_CLOCK,) if key in of_files}}.values()


def _of_line(sample: TegrastatsSample, total_rails: tuple[str, ...]) -> _Readings:
    clocks = {
        CPU_CLOCK: [core.mhz for core in sample.cores if core],
        GPU_CLOCK: sample.gpu.mhz if sample.gpu else (),
        ("clock_mhz", "memory"): sample.memory.mhz if sample.memory else (),
    }
    readings: _Readings = {sensor: max(mhz) for sensor, mhz in clocks.items() if mhz}
    readings |= {("temperature_c", zone_name(zone)): degrees for zone, degrees in sample.temperatures_c.items()}
    for rail in reversed(sample.rails):
        if rail.name != NOT_CONNECTED:
            readings["power_mw", rail.name] = rail.now_mw
    total = total_power_mw(sample, total_rails)
    return readings if total is None else {**readings, TOTAL_POWER: total}


def _of_files(files: _Files, total_rails: tuple[str, ...]) -> _Readings:
    readings: _Readings = {("temperature_c", zone): degrees for zone, degrees in temperatures_c(files).items()}
    for sensor, clocks in ((CPU_CLOCK, cpu_clocks(files)), (GPU_CLOCK, gpu_clocks(files))):
        if mhz := [clock.current_mhz for clock in clocks if clock.current_mhz]:
            readings[sensor] = max(mhz)
    rails = rails_mw(files)
    if len(total_rails) == 1 and total_rails[0] in rails:
        readings[TOTAL_POWER] = rails[total_rails[0]]
    return {**readings, **{("power_mw", name): power for name, power in rails.items()}}


def _counted_power(moments: Sequence[_Moment], counters: EnergyCounters) -> Iterator[tuple[float, _Readings]]:
    """The mean power since the last sample, by the energy counters. The first sample has the power that follows it."""
    is_first = True
    for before, after in pairwise(moments):
        powers = counters.power_mw(before.files, after.files, after.time_s - before.time_s)
        readings: _Readings = {("power_mw", processor): power for processor, power in powers.items()}
        if is_first:
            yield before.time_s, readings
        is_first = False
        yield after.time_s, readings


class _Ticks(NamedTuple):
    """Ticks of all processors since the start of the machine: those of any work, stolen by the host, and all."""

    busy: int
    stolen: int
    total: int


def _load(moments: Sequence[_Moment], window: Window) -> Load | None:
    """The processor time of the counted runs: one difference over all of them."""
    if not moments:
        return None
    before, after = _around(moments, window)
    ticks, seconds = _ticks_between(before, after), after.time_s - before.time_s
    own = after.own_ticks - before.own_ticks
    if seconds <= 0 or ticks.total <= 0:
        return None
    return Load(seconds, *(count * TICK_S for count in (ticks.total, own, ticks.busy - own, ticks.stolen)))


def _shares(moments: Sequence[_Moment]) -> Iterator[tuple[float, _Readings]]:
    """The shares of other programs and of the host's other machines since the last sample."""
    for before, after in pairwise(moments):
        ticks = _ticks_between(before, after)
        if ticks.total > 0:
            others = ticks.busy - (after.own_ticks - before.own_ticks)
            wanted = ticks.busy + ticks.stolen
            yield (
                after.time_s,
                {
                    ("other_load", "processors"): min(max(others / ticks.total, 0.0), 1.0),
                    ("stolen", "processors"): min(max(ticks.stolen / wanted, 0.0), 1.0) if wanted > 0 else 0.0,
                },
            )


def _ticks_between(before: _Moment, after: _Moment) -> _Ticks:
    return _Ticks(*(now - then for now, then in zip(_ticks(after), _ticks(before), strict=True)))


def _ticks(moment: _Moment) -> _Ticks:
    """Of the first line of /proc/stat. Guests are counted in user; waiting is not busy."""
    words = moment.files.get("/proc/stat", "").split()
    ticks = [whole_number(word) or 0 for word in words[1:9]] if words[:1] == ["cpu"] else []
    if len(ticks) < 5:
        return _Ticks(0, 0, 0)
    stolen = ticks[7] if len(ticks) > 7 else 0
    return _Ticks(sum(ticks) - ticks[3] - ticks[4] - stolen, stolen, sum(ticks))


def _around(moments: Sequence[_Moment], window: Window) -> tuple[_Moment, _Moment]:
    """The last sample before the counted runs and the first one after them; of all samples, if there is none there."""
    before = [moment for moment in moments if moment.time_s <= window.start_s][-1:] or moments[:1]
    after = [moment for moment in moments if moment.time_s >= window.end_s][:1] or moments[-1:]
    return before[0], after[0]


def _throttled(moments: Sequence[_Moment], window: Window) -> dict[str, int]:
    """Events during the counted runs, by cause."""
    if not moments:
        return {}
    before, after = _around(moments, window)
    counted, now = throttle_events(before.files), throttle_events(after.files)
    events = {cause: max(0, number - counted.get(cause, number)) for cause, number in now.items()}
    during = [one for one in moments if window.start_s <= one.time_s <= window.end_s]
    causes = {cause for moment in during for cause in firmware_causes(moment.files)}
    return {**events, **dict.fromkeys(sorted(causes), 1)}
