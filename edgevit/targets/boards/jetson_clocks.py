"""The output of `jetson_clocks --show`, from JetPack 4 to 7.

Lines that are read, as boards print them:

    cpu0: Online=1 Governor=schedutil MinFreq=729600 MaxFreq=1510400 CurrentFreq=729600 IdleStates: WFI=1 c7=1
    GPU MinFreq=306000000 MaxFreq=624750000 CurrentFreq=306000000
    gpu-gpc-0 MinFreq=1575000000 MaxFreq=1575000000 CurrentFreq=1575000000          (Thor)
    Active GPU TPCs: 4                                                              (Orin)
    EMC MinFreq=204000000 MaxFreq=2133000000 CurrentFreq=2133000000 FreqOverride=0
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgevit.targets.boards.clocks import Clock

_CLOCK = re.compile(
    r"\s*(?P<name>cpu\d{1,4}|GPU|gpu-gpc-\d|EMC):?\s[^\n]*?"
    r"MinFreq=(?P<min>\d{1,12})\s+MaxFreq=(?P<max>\d{1,12})\s+CurrentFreq=(?P<current>\d{1,12})\b",
    re.ASCII,
)
_TPCS = re.compile(r"^\s*Active GPU TPCs:\s*(\d{1,3})\s*$", re.ASCII | re.MULTILINE)


@dataclass(frozen=True)
class ShownClocks:
    """The clocks that jetson_clocks shows.

    Attributes:
        active_tpcs: TPCs of the GPU that are on; None where it is not printed.
    """

    cpu: tuple[Clock, ...]
    gpu: tuple[Clock, ...]
    memory: Clock | None
    active_tpcs: int | None


def clocks_of_answer(answer: str) -> ShownClocks | None:
    """The clocks; None if the answer shows none, as for a user who is not root."""
    clocks = tuple(_clock(row) for row in map(_CLOCK.match, answer.splitlines()) if row)
    if not clocks:
        return None
    tpcs = _TPCS.search(answer)
    return ShownClocks(
        cpu=tuple(clock for clock in clocks if clock.name.startswith("cpu")),
        gpu=tuple(clock for clock in clocks if clock.name.lower().startswith("gpu")),
        memory=next((clock for clock in clocks if clock.name == "EMC"), None),
        active_tpcs=int(tpcs[1]) if tpcs else None,
    )


def _clock(row: re.Match[str]) -> Clock:
    """CPU clocks are printed in kHz, the others in Hz."""
    per_mhz = 1e3 if row["name"].startswith("cpu") else 1e6
    low, high, now = (int(row[key]) / per_mhz for key in ("min", "max", "current"))
    return Clock(row["name"], low, high, now)
