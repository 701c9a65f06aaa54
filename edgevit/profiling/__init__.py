"""Latency: the package's only clock, its statistics, and the conditions of a measurement."""

from edgevit.profiling.measure import (
    Clock,
    Comparison,
    Measurement,
    MeasurePlan,
    Opener,
    WallClock,
    interleaved,
    measure,
)
from edgevit.profiling.statistics import Interval, nearest_rank

__all__ = [
    "Clock",
    "Comparison",
    "Interval",
    "MeasurePlan",
    "Measurement",
    "Opener",
    "WallClock",
    "interleaved",
    "measure",
    "nearest_rank",
]
