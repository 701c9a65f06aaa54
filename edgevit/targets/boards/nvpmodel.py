"""The power mode of a Jetson: its answer, and the modes of its configuration file.

A mode is known by its name. Ids differ by JetPack and by the maker of the carrier board: MAXN is 0 on an AGX Orin, and
MAXN_SUPER is 2 on an Orin Nano.

Sources: the output of `nvpmodel -q`; the header of /etc/nvpmodel.conf, which describes its own format.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

_NAME = re.compile(r"NV Power Mode:\s*(\w[\w.+-]{0,63})", re.ASCII)
_ID = re.compile(r"\d{1,4}", re.ASCII)
_MODEL = re.compile(r"<\s*POWER_MODEL\s+ID=(\d{1,4})\s+NAME=([\w.+-]{1,64})\s*>", re.ASCII)
_MASK = re.compile(r"TPC_POWER_GATING\s+TPC_PG_MASK\s+(\d{1,6})", re.ASCII)


@dataclass(frozen=True)
class PowerMode:
    """A power mode. `id` is what `nvpmodel -m` takes on this very machine; None where it was not printed.

    Attributes:
        tpc_pg_mask: bits of the TPCs that the mode switches off; None where it does not say.
    """

    name: str
    id: int | None
    tpc_pg_mask: int | None = None


def power_mode_of_answer(answer: str) -> PowerMode | None:
    """The mode that `nvpmodel -q` prints: a line with its name, then a line with its id. None if there is no name."""
    lines = answer.splitlines()
    for line, following in pairwise([*lines, ""]):
        if name := _NAME.search(line):
            number = following.strip()
            return PowerMode(name[1], int(number) if _ID.fullmatch(number) else None)
    return None


def power_modes_of_conf(conf: str) -> tuple[PowerMode, ...]:
    """The modes of /etc/nvpmodel.conf, in its order."""
    lines = [line for line in conf.splitlines() if not line.lstrip().startswith("#")]
    _, *blocks = re.split(r"(?=<\s*POWER_MODEL\b)", "\n".join(lines))
    modes = []
    for block in blocks:
        if head := _MODEL.match(block):
            mask = _MASK.search(block)
            modes.append(PowerMode(head[2], int(head[1]), int(mask[1]) if mask else None))
    return tuple(modes)


def power_mode_of_status(status: str, modes: tuple[PowerMode, ...]) -> PowerMode | None:
    """The mode that /var/lib/nvpmodel/status names by its id, such as `pmode:0002`. None if no mode has this id."""
    number = re.search(r"pmode:(\d{1,8})", status, re.ASCII)
    return next((mode for mode in modes if number and mode.id == int(number[1])), None)


def plain_name(name: str) -> str:
    """A name without the prefix that older JetPacks give it: MODE_30W and 30W are one mode. Case does not matter."""
    return name.upper().removeprefix("MODE_")
