"""Numbers as people read them: each format here serves tables and citations alike."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

Format = Callable[[float], str]

MINUS = "−"
UNIT = re.compile(r"[^\d]+$")  # after the digits of a number
CENTRES = ("value", "mean", "median")  # what a record of a spread or an interval calls its middle
ENDS = (("low", "high"), ("min", "max"))


def fixed(decimals: int, scale: float = 1.0, unit: str = "", signed: bool = False) -> Format:
    """A format with so many decimals; zero has no minus."""

    def shown(value: float) -> str:
        digits = f"{value * scale:{'+' if signed else ''},.{decimals}f}"
        if not float(digits.replace(",", "")):
            digits = digits.replace("-", "+" if signed else "")
        return digits.replace("-", MINUS) + unit

    return shown


def significant(digits: int, unit: str = "") -> Format:
    """A format with so many significant digits, without an exponent."""

    def shown(value: float) -> str:
        before_point = math.floor(math.log10(abs(value))) + 1 if value else 1
        return fixed(max(0, digits - before_point), unit=unit)(value)

    return shown


percent = fixed(1, 100, "%")
percents = fixed(1, 100)  # in a column whose header says per cent
points = fixed(1, 100, signed=True)  # of top-1, from a difference of fractions
ratio = fixed(2)
decibels = fixed(1, unit=" dB")
whole = fixed(0)
milliseconds = significant(3, " ms")
seconds = significant(3, " s")
mebibytes = fixed(2, 2**-20, " MiB")
millions = fixed(2, 1e-6, " M")


def centre(record: Mapping[str, Any]) -> float:
    """The middle of a record that has a value, a mean or a median."""
    return float(next(record[name] for name in CENTRES if name in record))


def has_range(value: object) -> bool:
    """Whether this is a record of an interval or a spread."""
    return isinstance(value, Mapping) and any(name in value for name in CENTRES) and _ends(value) is not None


def ranged(record: Mapping[str, Any], shown: Format) -> str:
    """`68.3% (63.7 to 72.5)`: the middle, and where it lies or what was seen; or the middle alone."""
    middle, ends = shown(centre(record)), _ends(record)
    if ends is None or record[ends[0]] is None:
        return middle
    unit = UNIT.search(middle)
    low, high = (shown(float(record[name])).removesuffix(unit[0] if unit else "") for name in ends)
    return f"{middle} ({low} to {high})"


def plus_minus(record: Mapping[str, Any], shown: Format) -> str:
    """`67.9 ± 0.5`: the middle and half of the interval."""
    return f"{shown(centre(record))} ± {shown((record['high'] - record['low']) / 2).lstrip('+')}"


def _ends(record: Mapping[str, Any]) -> tuple[str, str] | None:
    return next(((low, high) for low, high in ENDS if low in record and high in record), None)
