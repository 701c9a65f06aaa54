"""The recipe `jetson`, from photos to the bundle, over a real SSH server: a stand-in for a board, and plain hosts."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from edgevit.cli import app
from edgevit.profiling import MeasurePlan, loop
from edgevit.targets import base, visits
from edgevit.targets.named import add_target, named_target, user_file
from tests.reader_folder import make_folder
from tests.targets import arm64
from tests.targets.ssh_host import SshHost, needs_sshd
from tests.targets.test_agent_host import host, name_board
from tests.targets.test_tensorrt_journey import Board, board

__all__ = ["board", "host"]  # fixtures
pytestmark = [needs_sshd, pytest.mark.slow]
ONNXRUNTIME = [  # as the recipe says
    "stages.int8.runtime=onnxruntime",
    "stages.engine.runtime=onnxruntime",
    "stages.bundle.compiled=false",
]
SMALLER = [
    *(f"stages.{load}.{key}" for load in ("backbone", "start") for key in ("pretrained=false", "image_size=32")),
    "stages.backbone.model=resnet18",
    "stages.start.model_args={patch_size: 8, depth: 2, embed_dim: 48, num_heads: 3}",
    "stages.student.learning_rate=1e-3",
    "stages.student.epochs=4",
    "stages.int8.min_sqnr_db=0",
    "stages.latency/board.duration_s=0.1",
]


@pytest.fixture(autouse=True)
def short_races(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(loop, "STARTS", 6)
    monkeypatch.setattr(base, "CHOICE", MeasurePlan(warmup_s=0.01, duration_s=0.06, min_runs=12))
    make_folder(tmp_path)
    monkeypatch.chdir(tmp_path)


def metrics_of(stages: str, *settings: str) -> list[Any]:
    """Run the recipe in the current folder; the metrics of some stages."""
    words = [word for setting in (*SMALLER, *settings) for word in ("--set", setting)]
    answer = CliRunner().invoke(app, ["run", "jetson", *words])
    if answer.exception is not None and not isinstance(answer.exception, SystemExit):
        raise answer.exception
    assert answer.exit_code in (0, 1), f"{answer.output}\n{answer.exception!r}"  # such a student may miss its budget
    return [
        json.loads(Path("runs", "jetson", stage, "manifest.json").read_text())["metrics"] for stage in stages.split()
    ]


def test_it_runs_to_the_end_on_a_stand_in_for_a_board(board: Board) -> None:
    file, orin = user_file(), named_target("orin").config
    assert file is not None
    assert orin is not None
    add_target("board", orin, file)
    board.standin.vary("int8-is-fast")
    int8, engine, here, there, latency = metrics_of("int8 engine accuracy/file accuracy/board latency/board")
    assert int8["forms"][0]["form"] == int8["form"] == "float16"  # replayed times decide nothing
    assert int8["forms"][1]["speedup"] > 1
    assert all(form["top1_drop"]["limit"] == 0.02 for form in int8["forms"] if "failed" not in form)
    assert engine["runtime"] == there["runtime"] == "tensorrt"
    assert {row["got"] for row in engine["products"]} == {"half"}
    assert there["top1"]["value"] == pytest.approx(here["top1"]["value"], abs=2 / there["top1"]["n"])
    assert latency["latency_ms"]["label"] == "replayed"
    report = json.loads(Path("runs", "jetson", "report", "report.json").read_text())
    assert report["deployed"] == "engine"
    (layers,) = report["layer_times"]
    assert (layers["model"], layers["label"]) == ("engine", "replayed")
    assert "data sheet, not measured" in " ".join(layers["sentences"])
    bundle = Path("runs", "jetson", "bundle")
    assert {"model.engine", "model.onnx", "infer.py"} <= {file.name for file in bundle.iterdir()}


def test_three_settings_take_it_to_a_plain_host(host: SshHost) -> None:
    int8, engine, here, there, latency = metrics_of(
        "int8 engine accuracy/file accuracy/board latency/board", *ONNXRUNTIME
    )
    assert [form["form"] for form in int8["forms"]] == ["int8 all", "int8 products"]
    assert engine["runtime"] == there["runtime"] == latency["runtime"] == "onnxruntime"
    assert there["top1"]["value"] == pytest.approx(here["top1"]["value"], abs=2 / there["top1"]["n"])
    assert (latency["target"], latency["latency_ms"]["label"]) == ("board", "measured")


def test_arm64_has_the_accuracy_of_this_machine(
    server: SshHost, arm64_python: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An emulated processor: its outputs count, and its times mean nothing."""
    monkeypatch.setenv("PATH", server.path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    server.accept("user_key")
    server.know("host_key")
    name_board(server, shlex.join(arm64_python), onnxruntime=arm64.ONNXRUNTIME)
    visits.forget()
    int8_only = "stages.int8.placement=all", "stages.int8.target=local-cpu"  # so that no float model ships
    engine, here, there = metrics_of("engine accuracy/file accuracy/board", *ONNXRUNTIME, *int8_only)
    assert engine["precision"] == "int8"
    assert here["top1"]["low"] <= there["top1"]["value"] <= here["top1"]["high"]
