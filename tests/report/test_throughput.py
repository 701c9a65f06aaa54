"""Throughput by batch size and a stream of frames in the report, of a real profile."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest

from edgevit.artifacts import Artifact
from edgevit.profiling.scenarios import Throughput
from edgevit.report import plots
from edgevit.report.text.throughput import throughput_rows
from tests.small_models import float_onnx, workbench

QUICK: dict[str, Any] = {"warmup_s": 0.05, "duration_s": 0.1, "min_runs": 20, "starts": 2, "retry_s": 0, "idle_s": 0}
SCENARIOS: dict[str, dict[str, Any]] = {
    "single_stream": {},
    "offline": {"batch_sizes": (1, 4)},
    "fixed_rate": {"rate_hz": 500.0},
}


@cache
def report(scenario: str) -> Artifact:
    stages, model = workbench(), float_onnx().id
    options = {"scenario": scenario, **SCENARIOS[scenario], **QUICK}
    latency = stages.run("profile", f"profile_{scenario}", model=model, **options)
    return stages.run("report", f"report_{scenario}", of=[latency.id])


def content(scenario: str) -> dict[str, object]:
    return dict(json.loads((report(scenario).path / "report.json").read_text()))


def test_throughput_is_a_table_in_all_forms_of_the_report() -> None:
    rows = content("offline")["offline"]
    assert isinstance(rows, list)
    assert [row["batch_size"] for row in rows] == [1, 4]
    shown = throughput_rows([Throughput.of_json(row) for row in rows])
    page, text = ((report("offline").path / name).read_text() for name in ("report.html", "report.md"))
    for _, rate, interval, _ in shown:
        assert f'<td class="number">{rate}</td>' in page
        assert rate in text
        assert interval in text
    assert "Throughput by batch size" in page
    assert "Images a second by batch size" in page


def test_a_stream_is_in_the_facts_and_a_single_stream_has_neither() -> None:
    stream = content("fixed_rate")
    assert isinstance(stream["fixed_rate"], dict)
    assert stream["fixed_rate"]["rate_hz"] == 500
    assert "Fixed rate" in (report("fixed_rate").path / "report.html").read_text()
    plain = content("single_stream")
    assert (plain["offline"], plain["fixed_rate"], plain["like_mlperf"]) == ([], None, None)
    assert "Throughput" not in (report("single_stream").path / "report.html").read_text()


@pytest.mark.parametrize("low", [None, 90.0])
def test_the_picture_takes_batch_sizes_without_an_interval(low: float | None) -> None:
    batch = Throughput(1, 100.0, low, low and 110.0, 10.0, 50, "measured")
    assert "<svg" in plots.throughput([batch, batch])
