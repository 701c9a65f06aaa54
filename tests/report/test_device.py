"""The report leads with the device that the deployed model was measured on, and with what makes a latency invalid."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from edgevit.artifacts import Json
from edgevit.configs import Budget
from edgevit.profiling.telemetry import Series, Telemetry, Window
from edgevit.report import summary
from edgevit.report.build import report_json
from edgevit.report.device import _soak
from edgevit.report.page import page
from edgevit.report.plots import over_the_run
from edgevit.report.text.report import markdown
from edgevit.report.variants import lineup
from tests.report.measured_run import ALL, MeasuredRun, quickstart

THROTTLED = ["the machine throttled while it was measured: peak over-current, 3 events"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> MeasuredRun:
    run = quickstart(tmp_path_factory.mktemp("run"))
    run.latency("there", "engine", 3.1, target="board")
    run.latency("float_there", "onnx", 7.0, target="board")
    run.latency("float_here", "onnx", 1.5)
    run.latency("photos_here", "onnx", 2.5, boundary="end_to_end")
    run.latency("threads_here", "onnx", 0.9, threads=4)
    run.evaluation("top1_there", "engine", 0.93, target="board")
    run.latency("hot", "engine", 3.0, target="board", invalid=THROTTLED, duration_s=4)
    run.latency("hot_float", "onnx", 2.0, invalid=THROTTLED, duration_s=5)
    return run


def report(run: MeasuredRun, *names: str, **budget: Any) -> Json:
    return report_json(lineup(run.of(*names)), Budget(**budget), "quickstart")


def test_the_device_comes_before_the_numbers_with_the_same_models_here(run: MeasuredRun) -> None:
    names: Sequence[str] = ("top1_there", "there", "float_there", "float_here")
    content = report(run, *names)
    device = content["device"]
    assert device["target"] == "board"
    assert dict(device["facts"])["Accuracy there"].startswith("top-1 93.0%")
    rows = {row["model"]: (row["there"], row["here"]) for row in device["rows"]}
    assert rows["onnx"][0]["latency_ms"]["p50"] > 4 * rows["onnx"][1]["latency_ms"]["p50"]
    assert rows["engine"][1] is None
    text, html = markdown(content), page(content, lineup(run.of(*names)))
    assert text.index("## On board") < text.index("## In numbers")
    assert html.index("On board") < html.index('class="cards"')
    assert "The same models on board and on this machine" in html


@pytest.mark.parametrize("here", ["photos_here", "threads_here"])
def test_a_latency_under_other_conditions_is_not_put_beside_that_of_the_device(run: MeasuredRun, here: str) -> None:
    device = report(run, "top1_there", "there", "float_there", here)["device"]
    assert all(row["here"] is None or row["here"]["latency_ms"] is None for row in device["rows"])
    device = report(run, "top1_there", "there", "float_there", here, "float_here")["device"]
    (row,) = [row for row in device["rows"] if row["model"] == "onnx"]
    assert row["here"]["latency_ms"]["p50"] < 2  # of float_here


def test_a_report_of_this_machine_alone_names_no_device(run: MeasuredRun) -> None:
    content = report(run, *ALL)
    assert content["device"] is None
    assert "## On " not in markdown(content)


def test_an_invalid_latency_makes_the_headline_and_judges_no_budget(run: MeasuredRun) -> None:
    content = report(run, "top1_there", "hot", latency_ms=10)
    assert (content["answer"]["headline"], content["answer"]["tone"]) == (
        "The latency of the deployed model is invalid.", "no",
    )  # fmt: skip
    assert content["verdict"]["meets_budget"] is None
    said = " ".join(summary(content).split())
    assert "is invalid, so the limit of 10 ms cannot be judged" in said
    assert "Yes, it meets" not in said
    assert "INVALID" in dict(content["device"]["facts"])["Latency"]


@pytest.mark.parametrize("names", [("accuracy", "latency", "hot_float"), ("accuracy", "latency", "float_here")])
def test_nothing_is_faster_than_an_invalid_latency(run: MeasuredRun, names: Sequence[str]) -> None:
    content = report(run, *names)
    faster = content["comparisons"]["float_student"]["times_faster"]
    (point,) = (point for point in content["answer"]["points"] if point["title"] == "Latency")
    if "hot_float" in names:
        assert faster is None
        assert "Not compared with the float student: the latency of the float student is invalid." in point["sentences"]
        assert any("onnx: the latency is invalid: the machine throttled" in caution for caution in content["cautions"])
    else:
        assert faster > 1


def test_the_run_is_drawn_with_a_panel_for_each_sensor() -> None:
    times = tuple(np.linspace(0, 3, 13).tolist())
    series = (
        Series("temperature_c", "tj", times, tuple(np.linspace(50, 60, 13).tolist())),
        Series("clock_mhz", "gpu", times, (1018.0,) * 13),
        Series("power_mw", "total", times[:1], (5971.0,)),
    )
    drawn = over_the_run(Telemetry(series, Window(0.5, 2.5), 3.0, "tj"))
    assert drawn is not None
    assert {"Temperature (tj), °C", "Clock (gpu), MHz", "Power (total), W"} <= set(
        re.findall(">([^<>]+)</text>", drawn)
    )
    assert over_the_run(Telemetry((), Window(0, 1), 1.0)) is None


def test_a_soak_without_a_first_temperature_has_no_range() -> None:
    soak = {"seconds": 60.0, "start_c": None, "end_c": 50.0, "slope_c_per_min": 0.1, "is_steady": True}
    assert _soak(soak) == "60 s, steady"
    assert _soak({**soak, "start_c": 40.0}) == "60 s, 40.0 to 50.0 °C, steady"
