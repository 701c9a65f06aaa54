"""Latency: the package's only clock, its statistics, and the conditions of a measurement."""

from edgevit.profiling.loop import Clock, MeasurePlan, Opener, WallClock, Work
from edgevit.profiling.measure import Measurement, measure
from edgevit.profiling.meters import SpanMeter, SpanReading
from edgevit.profiling.race import Comparison, comparisons_of_turns, interleaved
from edgevit.profiling.statistics import Interval, nearest_rank

__all__ = [
    "Clock",
    "Comparison",
    "Interval",
    "MeasurePlan",
    "Measurement",
    "Opener",
    "SpanMeter",
    "SpanReading",
    "WallClock",
    "Work",
    "comparisons_of_turns",
    "interleaved",
    "measure",
    "nearest_rank",
]
