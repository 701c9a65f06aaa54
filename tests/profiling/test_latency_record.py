"""Latencies as their metrics record them, of this release and of older ones."""

from __future__ import annotations

from typing import Any

import pytest

from edgevit.profiling.latency_record import LatencyRecord, Percentile
from edgevit.profiling.telemetry import NOT_SAMPLED


def metrics(target: str, **latency: Any) -> dict[str, Any]:
    times = {"p50": 3.0, "p50_low": 2.9, "p50_high": 3.1, "n": 100, "boundary": "compute", "label": "measured"}
    return {"latency_ms": {**times, "warnings": ["the times vary"], **latency}, "runtime": "tensorrt", "target": target}


@pytest.mark.parametrize(
    ("target", "latency", "warnings"),
    [
        ("orin", {}, (NOT_SAMPLED, "the times vary")),  # a release that did not sample recorded no `invalid`
        ("local-cpu", {}, ("the times vary",)),
        ("orin", {"invalid": []}, ("the times vary",)),
    ],
)
def test_an_older_latency_of_another_machine_was_not_sampled(
    target: str, latency: dict[str, Any], warnings: tuple[str, ...]
) -> None:
    record = LatencyRecord.of_metrics(metrics(target, **latency))
    assert record.warnings == warnings
    assert record.is_judged


def test_an_older_latency_has_no_interval_of_its_tail() -> None:
    older = LatencyRecord.of_metrics(metrics("local-cpu", p90=3.3, p99=3.9))
    assert older.percentiles[99] == Percentile(3.9, is_recorded=False)
    assert (older.start, older.cpus_used, older.parts_ms) == (None, None, {})
    newer = metrics("local-cpu", p90=3.3, p90_low=3.2, p90_high=3.4, p99=3.9, p99_low=None, p99_high=None, invalid=[])
    record = LatencyRecord.of_metrics(newer)
    assert record.percentiles[90] == (3.3, 3.2, 3.4, True)
    assert record.percentiles[99] == (3.9, None, None, True)
    assert {name: value for name, value in record.numbers().items() if name in newer["latency_ms"]} == newer[
        "latency_ms"
    ]
