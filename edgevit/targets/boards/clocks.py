"""Clocks of the GPU and of the CPU, from the kernel's files (devfreq and cpufreq)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

# 57000000.gpu is a Nano's, 17000000.gp10b a TX2's, .gv11b a Xavier's, .ga10b an Orin's up to JetPack 5 and .gpu from
# JetPack 6 on. A Thor has a domain for its GPCs (gpu-gpc-0) beside one for video (gpu-nvd-0).
_GPU = re.compile(
    r"/sys/class/devfreq/(57000000\.gpu|17000000\.(?:gpu|gp10b|gv11b|ga10b)|gpu-gpc-\d)/max_freq", re.ASCII
)
_POLICY = re.compile(r"/sys/devices/system/cpu/cpufreq/policy(\d+)/scaling_max_freq", re.ASCII)


@dataclass(frozen=True)
class Clock:
    """A clock and the range in which it may move, in MHz.

    Attributes:
        name: the processor, cluster or unit.
        is_measured: whether the current clock was measured. The kernel's own figure of a CPU clock is what was asked
            for: a Thor whose CPU was held at 242 MHz claimed 2601.
    """

    name: str
    min_mhz: float
    max_mhz: float
    current_mhz: float | None
    is_measured: bool = True

    @property
    def is_locked(self) -> bool:
        """Whether the clock has one value only."""
        return self.min_mhz == self.max_mhz > 0

    @property
    def is_below_range(self) -> bool:
        """Whether the hardware holds the clock below the range, as it does when it throttles. 0 is a unit at rest."""
        return self.current_mhz is not None and 0 < self.current_mhz < self.min_mhz


def gpu_clocks(files: Mapping[str, str]) -> tuple[Clock, ...]:
    """The clocks of a Jetson's GPU, one a domain."""
    clocks = (_devfreq_clock(files, found[1]) for found in _matches(_GPU, files))
    return tuple(clock for clock in clocks if clock)


def cpu_clocks(files: Mapping[str, str]) -> tuple[Clock, ...]:
    """The clocks of the CPU, one a cluster of cores that share a clock; empty in most virtual machines."""
    clusters = sorted(int(found[1]) for found in _matches(_POLICY, files))
    clocks = (_cpufreq_clock(files, cluster) for cluster in clusters)
    return tuple(clock for clock in clocks if clock)


def cpu_governors(files: Mapping[str, str]) -> tuple[str, ...]:
    """The names of the governors in use, each once."""
    names = (text.strip() for path, text in files.items() if path.endswith("/scaling_governor"))
    return tuple(sorted({name for name in names if name}))


class _Bounds(NamedTuple):
    low: int
    high: int


def _devfreq_clock(files: Mapping[str, str], name: str) -> Clock | None:
    folder = f"/sys/class/devfreq/{name}"
    bounds = _bounds(files, f"{folder}/min_freq", f"{folder}/max_freq")
    if bounds is None:
        return None
    now = whole_number(files.get(f"{folder}/cur_freq", ""))
    return Clock(name, bounds.low / 1e6, bounds.high / 1e6, None if now is None else now / 1e6)


def _cpufreq_clock(files: Mapping[str, str], cluster: int) -> Clock | None:
    folder = f"/sys/devices/system/cpu/cpufreq/policy{cluster}"
    bounds = _bounds(files, f"{folder}/scaling_min_freq", f"{folder}/scaling_max_freq")
    if bounds is None:
        return None
    measured = whole_number(files.get(f"{folder}/cpuinfo_cur_freq", ""))
    now = whole_number(files.get(f"{folder}/scaling_cur_freq", "")) if measured is None else measured
    current_mhz = None if now is None else now / 1e3
    return Clock(f"cpu{cluster}", bounds.low / 1e3, bounds.high / 1e3, current_mhz, is_measured=measured is not None)


def _bounds(files: Mapping[str, str], low: str, high: str) -> _Bounds | None:
    least, most = whole_number(files.get(low, "")), whole_number(files.get(high, ""))
    return None if least is None or most is None else _Bounds(least, most)


def whole_number(text: str) -> int | None:
    """A file's whole number; None if it holds none."""
    text = text.strip().rstrip("\0")
    return int(text) if re.fullmatch(r"-?\d{1,15}", text, re.ASCII) else None


def _matches(pattern: re.Pattern[str], files: Mapping[str, str]) -> Iterator[re.Match[str]]:
    return (found for found in map(pattern.fullmatch, sorted(files)) if found)
