"""Power from energy counters: of the CPU's packages and memory (RAPL), and of NVIDIA GPUs (NVML).

Source: the kernel's documentation of powercap; its driver intel_rapl also reads AMD's counters. A package counts its
cores and its own GPU, and not its memory. `psys` counts the whole platform, packages too, and is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgevit.profiling.telemetry import Processor
from edgevit.targets.boards.clocks import whole_number

DENIED = (
    "only root may read the energy counters of this CPU: sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj "
    "lets all users read them until the next start"
)
VIRTUAL = "a virtual machine has no energy counters"
UNKNOWN_TOTAL = "the power rail of the whole module is not known for this machine"
NO_COUNTER = "this machine has no energy counter of the CPU (powercap) and no known power rail"
NO_GPU_COUNTER = "the driver of the GPU tells no energy (NVML)"

_ZONE = re.compile(r"(?P<folder>/sys/class/powercap/intel-rapl:\d{1,4}(?::\d{1,4})?)/energy_uj", re.ASCII)
_GPU = re.compile(r"nvml/\d{1,4}/energy_mj", re.ASCII)
_LARGEST_MW = 1e7


@dataclass(frozen=True)
class EnergyCounters:
    """The energy counters of a machine: paths, by the processor whose energy they count together.

    Attributes:
        wraps_uj: path → the largest value of the counter. It is followed by 0.
        boundaries: what the counters of a processor count, for people.
    """

    paths: Mapping[Processor, Sequence[str]]
    wraps_uj: Mapping[str, int]
    boundaries: Mapping[str, str]

    @classmethod
    def of_files(cls, files: Mapping[str, str], denied: Sequence[str]) -> EnergyCounters:
        """The counters among the files of a machine. Packages of which one cannot be read count none of the CPU."""
        zones = {path: zone["folder"] for path in sorted(files) if (zone := _ZONE.fullmatch(path))}
        names = {path: files.get(f"{folder}/name", "").strip() for path, folder in zones.items()}
        packages = [path for path, name in names.items() if name.startswith("package")]
        memory = [path for path, name in names.items() if name == "dram"] if packages else []
        gpus = [path for path in sorted(files) if _GPU.fullmatch(path)]
        paths: dict[Processor, Sequence[str]] = {}
        boundaries: dict[str, str] = {}
        if packages and not any(_is_package(path, files) for path in denied):
            paths["cpu"] = [*packages, *memory]
            boundaries["cpu"] = f"{_number(packages, 'CPU package')}{' with memory' if memory else ''} (RAPL)"
        if gpus:
            paths["gpu"], boundaries["gpu"] = gpus, f"{_number(gpus, 'GPU')} (NVML)"
        wraps = {path: whole_number(files.get(f"{folder}/max_energy_range_uj", "")) for path, folder in zones.items()}
        return cls(paths, {path: wrap for path, wrap in wraps.items() if wrap}, boundaries)

    def power_mw(self, before: Mapping[str, str], after: Mapping[str, str], seconds: float) -> dict[Processor, float]:
        """Mean power of each processor between two readings of all files."""
        if seconds <= 0:
            return {}
        powers: dict[Processor, float] = {}
        for processor, paths in self.paths.items():
            counted = [self._energy_mj(path, before, after) for path in paths]
            power = sum(energy for energy in counted if energy is not None) / seconds
            if None not in counted and power <= _LARGEST_MW:
                powers[processor] = power
        return powers

    def _energy_mj(self, path: str, before: Mapping[str, str], after: Mapping[str, str]) -> float | None:
        """The energy that a counter counted meanwhile; None if it was not read, or went back."""
        then, now = (whole_number(files.get(path, "")) for files in (before, after))
        if then is None or now is None:
            return None
        counted = now - then if now >= then else now - then + self.wraps_uj.get(path, 0)
        return None if counted < 0 else counted / (1 if _GPU.fullmatch(path) else 1e3)


def why_unmetered(
    counters: EnergyCounters, denied: Sequence[str], is_virtual: bool, has_rails: bool
) -> dict[Processor, str]:
    """Why the energy of a processor without counters cannot be measured.

    Args:
        denied: counters that are there and cannot be read.
        has_rails: whether some power rail is read.
    """
    of_cpu = DENIED if denied else UNKNOWN_TOTAL if has_rails else VIRTUAL if is_virtual else NO_COUNTER
    why: dict[Processor, str] = {"cpu": of_cpu, "gpu": UNKNOWN_TOTAL if has_rails else NO_GPU_COUNTER}
    return {processor: reason for processor, reason in why.items() if processor not in counters.paths}


def _is_package(path: str, files: Mapping[str, str]) -> bool:
    zone = _ZONE.fullmatch(path)
    return zone is not None and files.get(f"{zone['folder']}/name", "").startswith("package")


def _number(paths: Sequence[str], noun: str) -> str:
    return noun if len(paths) == 1 else f"{len(paths)} {noun}s"
