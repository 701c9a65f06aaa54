"""Receipts of latencies: read, refused, and held against a repetition."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from edgevit.actions.repeat_profile import Receipt, RepeatedLatency
from edgevit.cli import app
from edgevit.errors import ArtifactError, RecipeError
from edgevit.graphs.files import onnx_file
from edgevit.profiling.latency_record import LatencyRecord
from tests.small_models import float_onnx

QUICK = ["--duration", "0.05", "--threads", "2", "--retry", "0", "--starts", "2"]


def latency(p50_ms: float, relative: float, **changes: Any) -> LatencyRecord:
    bounds = p50_ms * (1 - relative), p50_ms * (1 + relative)
    return replace(
        LatencyRecord(p50_ms, *bounds, 600, "compute", "measured", (), "onnxruntime", "local-cpu", 1, 1), **changes
    )


def repeated(first: LatencyRecord, again: LatencyRecord, conditions: Any = None) -> RepeatedLatency:
    told = {
        "cpu": {"model": "A CPU", "logical_cores": 2},
        "versions": {"onnxruntime": "1.22"},
        "file_sha256": {"a": "1"},
    }
    return RepeatedLatency(Receipt(first, told), Receipt(again, conditions or told), float_onnx())


@pytest.mark.parametrize(
    ("p50_ms", "relative", "agrees"),
    [(5.0, 0.01, True), (5.1, 0.01, True), (5.5, 0.01, False), (4.5, 0.01, False), (5.5, 0.1, True)],
)
def test_two_latencies_agree_within_the_interval_of_their_ratio(p50_ms: float, relative: float, agrees: bool) -> None:
    pair = repeated(latency(5.0, 0.01), latency(p50_ms, relative))
    assert pair.agrees is agrees
    assert pair.interval.low < pair.ratio < pair.interval.high
    swapped = repeated(latency(p50_ms, relative), latency(5.0, 0.01))
    assert swapped.agrees is agrees
    assert swapped.interval.low == pytest.approx(1 / pair.interval.high)


@pytest.mark.parametrize("change", [{"invalid": ("other programs ran",)}, {"label": "replayed"}])
def test_an_invalid_or_replayed_latency_does_not_agree(change: dict[str, Any]) -> None:
    for pair in (
        repeated(latency(5.0, 0.01), latency(5.0, 0.01, **change)),
        repeated(latency(5.0, 0.01, **change), latency(5.0, 0.01)),
    ):
        assert pair.agrees is None
        assert "cannot be told" in " ".join(pair.sentences())


def test_what_differs_is_named() -> None:
    other = {"cpu": {"model": "B CPU", "logical_cores": 2}, "versions": {"onnxruntime": "1.23", "numpy": "2.0"}}
    said = " ".join(repeated(latency(5.0, 0.01), latency(5.0, 0.01), other).sentences())
    assert "Different: the file of the model." in said
    assert "Different: the CPU (B CPU now, A CPU in the receipt)." in said
    assert "Different: onnxruntime (1.23 now, 1.22 in the receipt)." in said
    assert "Different: numpy (2.0 now, unknown in the receipt)." in said
    assert repeated(latency(5.0, 0.01), latency(5.0, 0.01)).differences == []


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("model") / "model.onnx"
    file.write_bytes(onnx_file(float_onnx()).read_bytes())
    return file


@pytest.fixture(scope="module")
def receipt(model: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(CliRunner().invoke(app, ["profile", str(model), *QUICK, "--json"]).stdout)
    return content


def test_a_receipt_repeats_the_plan(model: Path, receipt: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "receipt.json").write_text(json.dumps(receipt))
    command = ["profile", str(model), "--repeat", str(tmp_path / "receipt.json"), "--retry", "0"]
    answer = CliRunner().invoke(app, [*command, "--json"])
    told = json.loads(answer.stdout)
    assert told["threads"] == 2
    assert told["conditions"]["duration_s"] == 0.05
    assert told["differences"] == []
    assert answer.exit_code == (0 if told["agrees"] else 1)
    # Two starts have a wide interval where other work disturbs them. It does not reach a billionth of the time.
    p50_ms = receipt["latency_ms"]["p50"] / 1e9
    short = {"p50": p50_ms, "p50_low": 0.99 * p50_ms, "p50_high": 1.01 * p50_ms}
    fast = {**receipt, "latency_ms": {**receipt["latency_ms"], **short}, "target": "local-cpu"}
    (tmp_path / "receipt.json").write_text(json.dumps(fast))
    answer = CliRunner().invoke(app, command)
    assert answer.exit_code == 1
    assert "NOT agree" in answer.stdout or "cannot be told" in answer.stdout


def test_a_latency_of_a_recipe_is_a_receipt(model: Path, receipt: dict[str, Any]) -> None:
    config = Receipt(LatencyRecord.of_metrics(receipt), receipt["conditions"]).config()
    assert (config.threads, config.duration_s, config.runtime, config.target) == (2, 0.05, "onnxruntime", "local-cpu")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"latency_ms": {}, "conditions": {}}', "null"])
def test_another_file_is_no_receipt(content: str, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text(content)
    with pytest.raises(ArtifactError, match="no receipt of a latency"):
        Receipt.read(tmp_path / "other.json")
    with pytest.raises(ArtifactError, match="no receipt of a latency"):
        Receipt.read(tmp_path)


def test_a_receipt_with_impossible_values_is_refused(receipt: dict[str, Any], tmp_path: Path) -> None:
    for p50 in (-1.0, None, "x"):
        bad = {**receipt, "latency_ms": {**receipt["latency_ms"], "p50": p50}}
        (tmp_path / "receipt.json").write_text(json.dumps(bad))
        with pytest.raises(ArtifactError, match="no receipt of a latency"):
            Receipt.read(tmp_path / "receipt.json")
    for change in (
        {"p50": "0.05"}, {"p50_low": "0.05"}, {"p50_low": 1e9}, {"invalid": [1]}, {"starts": "x"}, {"label": 3},
    ):  # fmt: skip
        bad = {**receipt, "latency_ms": {**receipt["latency_ms"], **change}}
        (tmp_path / "receipt.json").write_text(json.dumps(bad))
        with pytest.raises(ArtifactError, match="no receipt of a latency") as refused:
            Receipt.read(tmp_path / "receipt.json")
        assert next(iter(change)) in str(refused.value.got) or "p50 is outside" in str(refused.value.got)
    for further in ({"runtime": None}, {"conditions": {**receipt["conditions"], "versions": ["a"]}}):
        (tmp_path / "receipt.json").write_text(json.dumps({**receipt, **further}))
        with pytest.raises(ArtifactError, match="no receipt of a latency"):
            Receipt.read(tmp_path / "receipt.json")
    endless = Receipt(LatencyRecord.of_metrics(receipt), {**receipt["conditions"], "duration_s": 1e12})
    with pytest.raises(RecipeError, match="should be"):
        endless.config()


def test_a_receipt_of_an_older_release_is_read(receipt: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "receipt.json").write_text(json.dumps({k: v for k, v in receipt.items() if k != "precision"}))
    assert Receipt.read(tmp_path / "receipt.json").config().runtime == "onnxruntime"


def test_the_plan_of_a_receipt_is_not_changed_by_options(model: Path, receipt: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "receipt.json").write_text(json.dumps(receipt))
    answer = CliRunner().invoke(
        app, ["profile", str(model), "--repeat", str(tmp_path / "receipt.json"), "--threads", "4"]
    )
    assert isinstance(answer.exception, RecipeError)
    assert "--repeat takes no --threads" in str(answer.exception)
