"""Numbers and names as people read them: milliseconds, sizes, per cent, precisions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from edgevit.configs.runtimes import RUNTIMES

NOT_MEASURED = "–"
PRECISIONS = {
    "float32": "FP32", "float16": "FP16", "bfloat16": "BF16", "float8": "FP8", "int8": "INT8", "int4": "INT4",
}  # fmt: skip


def milliseconds(value: float) -> str:
    """Three significant digits, never an exponent: 0.0843 ms, 12.3 ms, 1,230 ms."""
    return f"{significant(value)} ms"


def significant(value: float, digits: int = 3) -> str:
    """`digits` significant digits in plain notation."""
    rounded = float(f"{value:.{digits}g}")
    if rounded == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
    return f"{rounded:,.{decimals}f}"


def size(size_bytes: float) -> str:
    """MiB, or KiB below one."""
    mib = size_bytes / 2**20
    return f"{significant(mib)} MiB" if mib >= 1 else f"{significant(size_bytes / 2**10)} KiB"


def count(value: float | None) -> str:
    """5.42 M, 812 k, 96; a dash if it is unknown."""
    if value is None:
        return NOT_MEASURED
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= factor:
            return f"{significant(value / factor)} {unit}"
    return f"{value:.0f}"


def percent(fraction: float) -> str:
    return f"{fraction:.1%}"


def interval_percent(top1: Mapping[str, float]) -> str:
    return f"{100 * top1['low']:.1f}–{100 * top1['high']:.1f}"


def plus_minus(share: Mapping[str, Any] | None) -> str:
    """A mean and half of its interval: 67.1% ± 0.8."""
    if share is None:
        return NOT_MEASURED
    half = "" if share["low"] is None else f" ± {50 * (share['high'] - share['low']):.1f}"
    return f"{percent(share['value'])}{half}"


def ratio(value: float) -> str:
    """How many times: 12.3×, 1.08×."""
    return f"{significant(value)}×"


def runtime_name(runtime: str | None) -> str:
    return RUNTIMES[runtime].title if runtime in RUNTIMES else runtime or NOT_MEASURED


def precision_name(precision: str) -> str:
    return PRECISIONS.get(precision, precision)
