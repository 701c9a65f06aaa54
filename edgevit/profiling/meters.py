"""Meters: what is measured over the span of the counted runs, beside their times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from edgevit.profiling.loop import MeasurePlan
from edgevit.profiling.telemetry import Telemetry


@dataclass(frozen=True)
class SpanReading:
    """What a meter has measured over a span.

    Attributes:
        conditions: for the conditions of the measurement, by name.
        doubts: reasons to doubt the measurement, a sentence each, without a full stop.
        invalid: reasons why the measurement does not count, a sentence each; see `Measurement`.
        telemetry: the state of the machine, from a meter that samples it.
    """

    conditions: Mapping[str, Any] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()
    invalid: tuple[str, ...] = ()
    telemetry: Telemetry | None = None


class SpanMeter(Protocol):
    """Measures a span. A clock times single runs. It is stopped after a failed run, too: `stop` starts no long work."""

    def rest(self, plan: MeasurePlan) -> None:
        """Nothing runs yet. Returns when what is measured at rest is measured."""

    def start(self, plan: MeasurePlan) -> None:
        """The span begins: the next run is counted."""

    def stop(self) -> SpanReading:
        """The span has ended."""
