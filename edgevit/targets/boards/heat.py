"""Temperatures and throttling: from the kernel's thermal zones and counters, and from a Raspberry Pi's firmware.

Sources: NVIDIA, Jetson Linux Developer Guide, "Platform Power and Performance" (over-current events of Orin and Thor);
Raspberry Pi documentation, `vcgencmd get_throttled`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from edgevit.targets.boards.clocks import whole_number
from edgevit.targets.boards.probe import Probe
from edgevit.targets.boards.request import VCGENCMD

_PLAUSIBLE_C = (-60, 200)
_COUNTERS = {"oc1": "low voltage", "oc2": "average over-current", "oc3": "peak over-current"}
_FIRMWARE_BITS = {0: "low voltage", 1: "capped clock", 2: "throttling", 3: "soft temperature limit"}
_PACKAGE_COUNT, _TOO_HOT = "/thermal_throttle/package_throttle_count", "temperature of the processor"
_SINCE_START = 16  # a bit this much higher says that it happened since the start


@dataclass(frozen=True)
class Throttling:
    """What held the machine back.

    Attributes:
        events: cause → events since the machine started. A Raspberry Pi says only whether there was one: 1 or 0.
        now: the causes that hold it back at this moment, where the machine says so.
    """

    events: Mapping[str, int]
    now: tuple[str, ...] = ()


def temperatures_c(files: Mapping[str, str]) -> dict[str, float]:
    """Thermal zone → °C, without sensors that are switched off. `tj-thermal` and `CPU-therm` become tj and cpu."""
    temperatures = {}
    for path, text in sorted(files.items()):
        zone = re.fullmatch(r"(/sys/class/thermal/thermal_zone\d{1,4})/type", path, re.ASCII)
        milli = whole_number(files.get(f"{zone[1]}/temp", "")) if zone else None
        # A zone that reads exactly 0 is switched off: those of the CV units on an Orin.
        if milli and _PLAUSIBLE_C[0] <= milli / 1e3 <= _PLAUSIBLE_C[1]:
            temperatures[zone_name(text)] = milli / 1e3
    return temperatures


def zone_name(text: str) -> str:
    """The plain name of a zone: `gpu-thermal`, `GPU-therm` and `GPU` are gpu."""
    return re.sub(r"[-_]therm(al)?$", "", text.strip().rstrip("\0").lower())


def junction(temperatures: Mapping[str, float]) -> str | None:
    """The zone of the junction: tj where there is one, else the hottest zone. None without zones.

    The zone pmic is left out: on boards up to Xavier it reads 100 °C whatever happens.
    """
    zones = {name: degrees for name, degrees in temperatures.items() if not zone_name(name).startswith("pmic")}
    junctions = [name for name in zones if zone_name(name) == "tj"]
    return next(iter(junctions), max(zones, key=zones.__getitem__, default=None))


def throttling(probe: Probe) -> Throttling | None:
    """The counters of the hardware or of the firmware; None where there are none."""
    if events := throttle_events(probe.files):
        return Throttling(events)
    answer = probe.commands.get(VCGENCMD.name)
    bits = re.match(r"throttled=0x([0-9a-fA-F]{1,8})\b", answer.stdout) if answer else None
    if bits is None:
        return None
    value = int(bits[1], 16)
    return Throttling(
        events={name: value >> (bit + _SINCE_START) & 1 for bit, name in _FIRMWARE_BITS.items()},
        now=tuple(name for bit, name in _FIRMWARE_BITS.items() if value >> bit & 1),
    )


def throttle_events(files: Mapping[str, str]) -> dict[str, int]:
    """Cause → events since the start: of the over-current counters of Orin and Thor, and of an x86 processor."""
    events = {}
    for path, text in sorted(files.items()):
        counter = re.fullmatch(r"/sys/class/hwmon/hwmon\d{1,4}/(oc[123])_event_cnt", path, re.ASCII)
        cause = _COUNTERS[counter[1]] if counter else _TOO_HOT if path.endswith(_PACKAGE_COUNT) else None
        count = whole_number(text) if cause else None
        if cause and count is not None and count >= 0:
            events[cause] = count
    return events


def firmware_causes(files: Mapping[str, str]) -> tuple[str, ...]:
    """The causes that hold a Raspberry Pi back at the moment of the files."""
    texts = [text.strip() for path, text in files.items() if path.endswith("firmware/get_throttled")]
    bits = [int(text, 16) for text in texts if re.fullmatch(r"(0x)?[0-9a-fA-F]{1,8}", text, re.ASCII)]
    return tuple(name for bit, name in _FIRMWARE_BITS.items() if any(value >> bit & 1 for value in bits))
