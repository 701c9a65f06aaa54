"""Reads lines of tegrastats, as JetPack 4 to 7 print them.

NVIDIA describes the fields in its Jetson Linux Developer Guide, "Tegrastats Utility" (r32 to r38). Boards also print
forms that it does not name:

- JetPack 4 prints no time, and power in mW without the unit.
- A GPU is `0%`, `0%@76`, `63%@[621]`, `12%@[1300,1300]` or `@[314,314,314]`. A Thor prints no GPU to a user who is
  not root.
- A temperature of -256 °C stands for a sensor that is switched off.
- JetPack 7.2 prints temperatures as now/highest and power as now/mean/highest.
- A rail may be named NC (not connected) several times, and may be negative near zero.
- The rails of an AGX Xavier are bare words. Two of them, GPU and CPU, also name temperatures and loads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise

from edgevit.errors import TargetError, shortened

LONGEST_LINE = 8_192
_PLAUSIBLE_C = (-60, 200)  # -256 stands for a sensor that is switched off
NOT_CONNECTED = "NC"

_DATE = re.compile(r"\d\d-\d\d-\d{4}", re.ASCII)
_CLOCK = re.compile(r"\d\d:\d\d:\d\d", re.ASCII)
_MEMORY = re.compile(r"(\d{1,9})/(\d{1,9})MB", re.ASCII)
_CORES = re.compile(r"\[([^\[\]]+)\]")
_CORE = re.compile(r"(\d{1,3})%@(\d{1,6})", re.ASCII)
_UNIT = re.compile(r"(?:(\d{1,3})%)?(?:@(?:(\d{1,6})|\[(\d{1,6}(?:,\d{1,6})*)\]))?", re.ASCII)
_TEMPERATURE = re.compile(r"([A-Za-z]\w{0,31})@(-?\d{1,3}(?:\.\d{1,6})?)C(?:/(-?\d{1,3}(?:\.\d{1,6})?)C)?", re.ASCII)
_RAIL_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,31}", re.ASCII)
_POWER = re.compile(r"(-?\d{1,7})mW(?:/(-?\d{1,7})mW(?:/-?\d{1,7}mW)?)?", re.ASCII)
# Without a unit, a number is power only behind a name that is known for a rail.
_BARE_RAIL_NAME = re.compile(r"(?:POM|VDD)_\w{1,28}|VIN|GPU|CPU|SOC|CV|VDDRQ|SYS5V|NC", re.ASCII)
_BARE_POWER = re.compile(r"(-?\d{1,7})/(-?\d{1,7})", re.ASCII)


@dataclass(frozen=True)
class Core:
    """A processor: its load in percent and its clock."""

    load_percent: int
    mhz: int


@dataclass(frozen=True)
class Unit:
    """The GPU or the memory controller.

    Attributes:
        load_percent: None where it is not printed.
        mhz: one clock a GPC; empty where none is printed.
    """

    load_percent: int | None = None
    mhz: tuple[int, ...] = ()


@dataclass(frozen=True)
class Rail:
    """A power rail.

    Attributes:
        now_mw: at the moment of the line.
        mean_mw: since tegrastats was started; None where it is not printed.
    """

    name: str
    now_mw: int
    mean_mw: int | None


@dataclass(frozen=True)
class TegrastatsSample:
    """One line of tegrastats.

    Attributes:
        time: the board's local time; None where it is not printed.
        ram_used_mib, ram_total_mib: main memory, which the GPU shares.
        swap_used_mib, swap_total_mib: None where there is no swap.
        cores: one a processor; None for a processor that is off.
        gpu: the GPU; None where the line does not name it.
        memory: the memory controller (EMC); None where the line does not name it.
        temperatures_c: zone → °C, without the sensors that are switched off.
        rails: in the order of the line. A name may occur more than once.
    """

    time: datetime | None
    ram_used_mib: int
    ram_total_mib: int
    swap_used_mib: int | None = None
    swap_total_mib: int | None = None
    cores: tuple[Core | None, ...] = ()
    gpu: Unit | None = None
    memory: Unit | None = None
    temperatures_c: Mapping[str, float] = field(default_factory=dict)
    rails: tuple[Rail, ...] = ()


def sample_of_line(line: str) -> TegrastatsSample:
    """One line as a sample. A field in an unknown form is left out of it.

    Raises:
        TargetError: the line holds no main memory, which every line of tegrastats does, or is too long.
    """
    words = line.split() if len(line) <= LONGEST_LINE else []
    pairs = list(pairwise([*words, ""]))
    values: dict[str, str] = {}
    for word, following in pairs:
        values.setdefault(word, following)
    ram = _memory(values.get("RAM", ""))
    if ram is None:
        raise TargetError("a line is not one of tegrastats", got=shortened(line), expected="RAM, as in RAM 330/3964MB")
    swap = _memory(values.get("SWAP", "")) or (None, None)
    return TegrastatsSample(
        time=_time(words),
        ram_used_mib=ram[0],
        ram_total_mib=ram[1],
        swap_used_mib=swap[0],
        swap_total_mib=swap[1],
        cores=_cores(values.get("CPU", "")),
        gpu=_gpu(values),
        memory=_unit(values.get("EMC_FREQ") or values.get("EMC") or ""),
        temperatures_c=_temperatures(words),
        rails=tuple(rail for rail in (_rail(name, value) for name, value in pairs) if rail),
    )


def samples_of_output(output: str) -> tuple[TegrastatsSample, ...]:
    """The samples of a command's output. Other lines, and a last line that was cut off, are left out."""
    samples = []
    for line in output.splitlines(keepends=True):
        try:
            samples += [sample_of_line(line)] if line.endswith("\n") else []
        except TargetError:
            continue
    return tuple(samples)


def total_power_mw(sample: TegrastatsSample, total_rails: tuple[str, ...]) -> int | None:
    """The power of the whole module, without the losses of the carrier board.

    Args:
        total_rails: `Board.total_rails`. One name: the rail of the whole module. Several names: the module has none,
            and the sum of all connected rails is taken.

    Returns:
        mW; None if one of these rails is not in the sample, or if the sum is negative.
    """
    connected = [rail for rail in sample.rails if rail.name != NOT_CONNECTED]
    if not total_rails or not set(total_rails) <= {rail.name for rail in connected}:
        return None
    summed = connected if len(total_rails) > 1 else [rail for rail in connected if rail.name == total_rails[0]][:1]
    total = sum(rail.now_mw for rail in summed)
    return total if total >= 0 else None


def _time(words: list[str]) -> datetime | None:
    if len(words) < 2 or not _DATE.fullmatch(words[0]) or not _CLOCK.fullmatch(words[1]):
        return None
    try:
        return datetime.strptime(f"{words[0]} {words[1]}", "%m-%d-%Y %H:%M:%S")
    except ValueError:
        return None


def _memory(value: str) -> tuple[int, int] | None:
    numbers = _MEMORY.fullmatch(value)
    if numbers is None:
        return None
    used, total = int(numbers[1]), int(numbers[2])
    return (used, total) if used <= total else None


def _cores(value: str) -> tuple[Core | None, ...]:
    """`[15%@729,off]`; empty if one of them is in an unknown form."""
    inside = _CORES.fullmatch(value)
    texts = inside[1].split(",") if inside else []
    cores = [_core(text) for text in texts]
    is_known = all(core or text == "off" for core, text in zip(cores, texts, strict=True))
    return tuple(cores) if is_known else ()


def _core(text: str) -> Core | None:
    numbers = _CORE.fullmatch(text)
    return Core(int(numbers[1]), int(numbers[2])) if numbers and int(numbers[1]) <= 100 else None


def _gpu(values: Mapping[str, str]) -> Unit | None:
    """The GPU. Early JetPack 5 prints the clock of the second GPC as GR3D2_FREQ."""
    first, second = _unit(values.get("GR3D_FREQ") or values.get("GR3D") or ""), _unit(values.get("GR3D2_FREQ", ""))
    return Unit(first.load_percent, first.mhz + second.mhz) if first and second else first


def _unit(value: str) -> Unit | None:
    parts = _UNIT.fullmatch(value) if value else None
    if parts is None or (parts[1] and int(parts[1]) > 100):
        return None
    clocks = parts[2] or parts[3]
    mhz = tuple(map(int, clocks.split(","))) if clocks else ()
    return Unit(int(parts[1]) if parts[1] else None, mhz)


def _temperatures(words: list[str]) -> dict[str, float]:
    low, high = _PLAUSIBLE_C
    zones = [zone for zone in map(_TEMPERATURE.fullmatch, words) if zone]
    return {zone[1]: float(zone[2]) for zone in zones if low <= float(zone[2]) <= high}


def _rail(name: str, value: str) -> Rail | None:
    power = _POWER.fullmatch(value) if _RAIL_NAME.fullmatch(name) else None
    power = power or (_BARE_POWER.fullmatch(value) if _BARE_RAIL_NAME.fullmatch(name) else None)
    return Rail(name, int(power[1]), None if power[2] is None else int(power[2])) if power else None
