"""Power of the monitors that the kernel knows (INA219, INA226, INA238, INA3221), where there is no tegrastats.

Sources: the kernel's documentation of hwmon (sysfs-interface: mV, mA, µW) and of the drivers ina2xx and ina3221.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from edgevit.targets.boards.clocks import whole_number
from edgevit.targets.boards.tegrastats import NOT_CONNECTED

_CHANNEL = re.compile(r"(?P<folder>/sys/class/hwmon/hwmon\d{1,4})/in(?P<number>[1-3])_input", re.ASCII)
_LARGEST_MW = 1e7


def rails_mw(files: Mapping[str, str]) -> dict[str, float]:
    """Rail → mW: the voltage times the current of each channel. A channel without a label has its monitor's name."""
    rails: dict[str, float] = {}
    for path in sorted(files):
        channel = _CHANNEL.fullmatch(path)
        power = _power_mw(files, channel["folder"], channel["number"]) if channel else None
        if channel and power is not None and abs(power) <= _LARGEST_MW:
            name = _name(files, channel["folder"], channel["number"])
            if name != NOT_CONNECTED:
                rails.setdefault(name, power)
    return rails


def _power_mw(files: Mapping[str, str], folder: str, number: str) -> float | None:
    measured_uw = whole_number(files.get(f"{folder}/power{number}_input", ""))
    if measured_uw is not None:
        return measured_uw / 1e3
    voltage_mv, current_ma = (whole_number(files.get(f"{folder}/{kind}{number}_input", "")) for kind in ("in", "curr"))
    return None if voltage_mv is None or current_ma is None else voltage_mv * current_ma / 1e3


def _name(files: Mapping[str, str], folder: str, number: str) -> str:
    label = files.get(f"{folder}/in{number}_label", "").strip()
    return label or f"{files.get(f'{folder}/name', '').strip()} {number}"
