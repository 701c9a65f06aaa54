"""Latencies as their metrics record them, of this release and of older ones."""

from __future__ import annotations

from typing import Any

import pytest

from edgevit.profiling.latency_record import LatencyRecord
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
