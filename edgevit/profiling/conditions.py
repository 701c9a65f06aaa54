"""The conditions of a measurement, read from the operating system.

Devices run this file as it is. It needs the standard library alone, Python 3.8 or later.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

# CPU flags that decide which integer and half-precision kernels a runtime picks.
RELEVANT_FLAGS = (
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_int8",
    "amx_bf16",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
)

MOST_MILLI_C = 200_000  # of a plausible temperature
NVIDIA_SMI_S = 30  # for its answer, which takes seconds where the driver is loaded anew

_CPU0 = Path("/sys/devices/system/cpu/cpu0/cpufreq")
_THERMAL_ZONES = Path("/sys/class/thermal")


@lru_cache
def cpu() -> dict[str, Any]:
    """The CPU's model, architecture, logical cores and `RELEVANT_FLAGS`. They are equal at every call."""
    fields = _cpuinfo()
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    return {
        "model": fields.get("model name") or platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "logical_cores": os.cpu_count() or 1,
        "instruction_sets": [flag for flag in RELEVANT_FLAGS if flag in flags],
    }


@lru_cache
def gpus() -> tuple[dict[str, str], ...]:
    """Name, driver and compute capability of each NVIDIA GPU that nvidia-smi lists; empty without nvidia-smi.

    Raises TimeoutError if nvidia-smi does not answer: then it is not known what is there.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    query = [program, "--query-gpu=name,driver_version,compute_cap", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=NVIDIA_SMI_S, check=False)
    except subprocess.TimeoutExpired:
        raise TimeoutError("nvidia-smi does not answer in time") from None
    if answer.returncode != 0:
        return ()
    rows = [[cell.strip() for cell in line.split(",")] for line in answer.stdout.splitlines() if line.strip()]
    return tuple({"model": row[0], "driver": row[1], "compute_capability": row[2]} for row in rows)


def cpu_frequency() -> dict[str, str]:
    """Governor, current and highest frequency, if the kernel reports them; most virtual machines do not."""
    names = {"governor": "scaling_governor", "current_khz": "scaling_cur_freq", "max_khz": "scaling_max_freq"}
    return {name: text for name, file in names.items() if (text := _read(_CPU0 / file))}


def load_average() -> float | None:
    """Mean number of running or waiting processes over the last minute; None if the system does not report it."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def peak_bytes() -> int | None:
    """The largest resident memory of this process so far; None if the kernel does not tell it.

    VmHWM counts this program alone; ru_maxrss begins at the size of the process that started it.
    """
    lines = (line.split() for line in _read(Path("/proc/self/status")).splitlines())
    return next((int(words[1]) * 1024 for words in lines if words[:1] == ["VmHWM:"]), None)


def thermal_zones() -> dict[str, str]:
    """The kernel's texts of each thermal zone's type and temperature, by path. `targets.boards.heat` reads them."""
    files = [file for name in ("type", "temp") for file in _THERMAL_ZONES.glob(f"thermal_zone*/{name}")]
    return {str(file): text for file in sorted(files) if (text := _read(file))}


def hottest_c() -> float | None:
    """The highest temperature of the kernel's thermal zones, in °C; None where they tell none.

    Zones that read 0 or less are switched off, and pmic reads 100 °C on old Jetsons whatever happens.
    """
    readings = []
    for folder in _THERMAL_ZONES.glob("thermal_zone*"):
        text = _read(folder / "temp")
        if text.isdigit() and 0 < int(text) < MOST_MILLI_C and not _read(folder / "type").lower().startswith("pmic"):
            readings.append(int(text) / 1e3)
    return max(readings, default=None)


def _cpuinfo() -> dict[str, str]:
    text = _read(Path("/proc/cpuinfo")).split("\n\n", 1)[0]
    pairs = (line.partition(":") for line in text.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
