"""`edgevit profile` with batches, a rate and MLPerf's rules, and what people read of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from edgevit.cli import app
from edgevit.cli.measuring import scenario_options
from edgevit.configs import Profile
from edgevit.context import Context
from edgevit.errors import RecipeError, TargetError
from edgevit.graphs.files import onnx_file
from edgevit.profiling.latency_record import LatencyRecord
from edgevit.profiling.scenarios import FrameStream, LoadgenResult, Throughput
from edgevit.report.plots import throughput
from edgevit.report.text.scenarios import scenario_facts
from edgevit.report.text.throughput import throughput_rows
from edgevit.stages.profile import run
from tests.small_models import checkpoint, float_onnx, workbench
from tests.targets.engine_folder import engine_folder

QUICK = ("--duration", "0.1", "--starts", "2", "--retry", "0")


def profile(*options: str) -> Result:
    result = CliRunner().invoke(app, ["profile", str(onnx_file(float_onnx())), *QUICK, *options])
    assert result.exit_code == 0, result.stderr
    return result


def test_several_batch_sizes_give_a_table_of_throughput() -> None:
    out = profile("--batch", "4, 1").stdout
    header, *rows = out.splitlines()[-3:]
    assert header.split() == ["batch", "images/s", "95%", "interval", "p50", "of", "a", "batch"]
    assert [row.split()[0] for row in rows] == ["1", "4"]
    assert "batch 1, float32" in out
    content = json.loads(profile("--batch", "1,4", "--json").stdout)
    assert [batch["batch_size"] for batch in content["offline"]] == [1, 4]
    assert content["latency_ms"]["p50"] == content["offline"][0]["p50_ms"]


def test_a_rate_tells_whether_it_is_kept() -> None:
    out = profile("--rate", "20000", "--threads", "1").stdout
    assert "Fixed rate: 20000 frames a second: " in out
    assert "Late frames: " in out
    assert "From arrival to end: p50 " in out


def test_mlperfs_rules_hold_for_the_options_that_are_not_given() -> None:
    content = json.loads(profile("--like", "mlperf", "--json").stdout)
    assert content["conditions"]["duration_s"] == 0.1
    assert content["conditions"]["min_runs"] == 64
    assert content["conditions"]["starts"] == 2
    missed = content["like_mlperf"]["shortfalls"]
    assert any("of 600 s" in sentence for sentence in missed)
    assert "the model was started several times" in missed
    whole = Profile.model_validate({"stage": "profile", "id": "p", "model": "m", "like": "mlperf"})
    assert (whole.duration_s, whole.min_runs, whole.starts) == (600, 64, 1)


@pytest.mark.parametrize(
    ("scenario", "batch", "rate_hz", "fixed", "expected"),
    [
        (None, None, None, None, {"scenario": "single_stream", "batch_size": 1}),
        (None, "4", None, None, {"scenario": "single_stream", "batch_size": 4}),
        (None, None, None, 8, {"scenario": "single_stream", "batch_size": 8}),
        (None, "2,1,2", None, None, {"scenario": "offline", "batch_sizes": (1, 2)}),
        ("offline", "4", None, None, {"scenario": "offline", "batch_sizes": (4,)}),
        (None, "2", 30.0, None, {"scenario": "fixed_rate", "batch_size": 2, "rate_hz": 30.0}),
    ],
)
def test_the_scenario_follows_from_the_options(
    scenario: str | None, batch: str | None, rate_hz: float | None, fixed: int | None, expected: dict[str, object]
) -> None:
    assert scenario_options(scenario, batch, rate_hz, fixed) == expected
    Profile.model_validate({"stage": "profile", "id": "p", "model": "m", **expected})


@pytest.mark.parametrize(
    ("options", "where"),
    [
        (("fixed_rate", None, None), "--scenario"),
        (("offline", None, 30.0), "--rate"),
        ((None, "1,2", 30.0), "--batch"),
        (("single_stream", "1,2", None), "--batch"),
    ],
)
def test_options_of_two_scenarios_are_refused(options: tuple[str | None, str | None, float | None], where: str) -> None:
    with pytest.raises(RecipeError) as refused:
        scenario_options(*options, None)
    assert str(refused.value.where) == where


@pytest.mark.parametrize(
    "fields",
    [
        {"scenario": "offline"},
        {"batch_sizes": [1, 2]},
        {"scenario": "offline", "batch_sizes": [2, 1]},
        {"scenario": "offline", "batch_sizes": [1, 2], "batch_size": 1},
        {"scenario": "fixed_rate"},
        {"rate_hz": 30},
        {"scenario": "fixed_rate", "rate_hz": 30, "like": "mlperf"},
        {"like": "mlperf", "batch_size": 2},
        {"like": "geekbench"},
    ],
)
def test_a_recipe_whose_options_do_not_fit_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        Profile.model_validate({"stage": "profile", "id": "p", "model": "m", **fields})


@pytest.mark.parametrize("batch", ["1,x", "0", "1,,2", "1.5"])
def test_a_batch_size_is_a_whole_number(batch: str) -> None:
    result = CliRunner().invoke(app, ["profile", "m.onnx", "--batch", batch])
    assert result.exit_code == 2
    assert "whole number" in result.stderr


def test_a_file_of_one_batch_size_has_no_sweep() -> None:
    one = workbench().run("export", "one_image", model=checkpoint().id, dynamic_batch=False)
    error = CliRunner().invoke(app, ["profile", str(onnx_file(one)), "--batch", "1,2"]).exception
    assert isinstance(error, TargetError)
    assert "fixed batch size" in error.what
    assert "open batch size" in str(error.next)


def test_an_engine_knows_no_rate(tmp_path: Path) -> None:
    fields = {
        "stage": "profile",
        "id": "p",
        "model": "m",
        "target": "local-gpu",
        "scenario": "fixed_rate",
        "rate_hz": 30,
    }
    engine = engine_folder(float_onnx(), tmp_path / "engine")
    with pytest.raises(TargetError, match="knows no rate") as refused:
        run(Profile.model_validate(fields), {"model": engine}, Context(), tmp_path)
    assert refused.value.got == "30 frames a second"


STREAM = FrameStream(30.0, 1, 400, 30.0, 0.0, 0.0, 0.009, 4.0, 5.0, 6.0, "measured")
RECORD = LatencyRecord(3.0, 2.9, 3.1, 700, "compute", "measured", (), "onnxruntime", "board", 1, 1)


@pytest.mark.parametrize(
    ("low", "high", "words"), [(0.0, 0.009, ": kept;"), (0.02, 0.05, ": NOT kept;"), (0.0, 0.02, "not told whether")]
)
def test_a_rate_is_kept_or_not_or_not_told(low: float, high: float, words: str) -> None:
    stream = replace(STREAM, late_low=low, late_high=high, warnings=("coarse clock",))
    facts = dict(scenario_facts(replace(RECORD, fixed_rate=stream)))
    assert words in facts["Fixed rate"]
    assert facts["Fixed rate is doubtful"] == "coarse clock"
    hot = replace(stream, invalid=("the machine was hot",))
    assert hot.is_kept is None
    invalid = list(scenario_facts(replace(RECORD, fixed_rate=hot)))
    assert invalid[0] == ("Fixed rate", "INVALID: the machine was hot")
    assert "not judged, since it is invalid" in dict(invalid[1:])["Fixed rate"]


def test_a_result_by_mlperfs_rules_is_never_called_official() -> None:
    facts = dict(scenario_facts(replace(RECORD, like_mlperf=LoadgenResult(5.0, 100_000, 600.0, ()))))
    assert facts["Like MLPerf"] == "p90 5.00 ms by early stopping, single stream, 100,000 queries in 600 s"
    assert "not by LoadGen" in facts["Not official"]
    assert "Not as MLPerf" not in facts


def test_an_invalid_batch_size_is_marked_in_its_row() -> None:
    batches = [
        Throughput(1, 250.0, None, None, 4.0, 100, "measured"),
        Throughput(8, 1234.5, 1200.0, 1270.0, 6.5, 100, "measured", invalid=("hot",), warnings=("few runs",)),
    ]
    assert throughput_rows(batches) == [
        ("1", "250.0", "–", "4.00 ms"),
        ("8", "1,234 invalid", "1,200 to 1,270", "6.50 ms invalid"),
    ]
    facts = list(scenario_facts(replace(RECORD, offline=tuple(batches))))
    assert facts == [("Batch 8 is invalid", "hot"), ("Batch 8 is doubtful", "few runs")]
    assert "invalid" in throughput(batches)
    assert "invalid" not in throughput(batches[:1])
