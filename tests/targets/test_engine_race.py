"""Engines in turns on a board: the program that starts trtexec, its file, and a race over a real SSH server."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgevit.actions.compare_models import compare_models
from edgevit.actions.single_stage import single_stages
from edgevit.context import Context
from edgevit.errors import TargetError
from edgevit.profiling import Interval, MeasurePlan, loop
from edgevit.profiling.telemetry import NOT_SAMPLED
from edgevit.runtimes.base import SessionOptions
from edgevit.targets import engine_race, target_for
from edgevit.targets.shipped import TURNS_FILE
from edgevit.targets.trtexec.answers import engine_that_failed, failure_in, starts_in
from tests.small_models import float_onnx
from tests.small_models import int8_onnx_for_tensorrt as int8
from tests.targets.ssh_host import needs_sshd
from tests.targets.test_tensorrt_journey import Board, board, compiled

__all__ = ["board"]  # a fixture

PLAN = MeasurePlan(warmup_s=0.01, duration_s=0.06, min_runs=12)
# A program with the one option of trtexec that counts here: it writes its name and the number of its runs.
PROGRAM = """\
import json, os, signal, sys
from pathlib import Path
name, file = sys.argv[1], next(word for word in sys.argv if word.startswith("--exportTimes=")).split("=")[1]
count = Path("count")
runs = int(count.read_text()) if count.exists() else 0
count.write_text(str(runs + 1))
if name == "refused":
    sys.exit(3)
if name == "killed":
    os.kill(os.getpid(), signal.SIGTERM)
if name != "silent":
    Path(file).write_text(json.dumps([name, runs]))
"""


def run_of_turns(folder: Path, starts: int, *names: str) -> subprocess.CompletedProcess[str]:
    (folder / "program.py").write_text(PROGRAM)
    engines = [
        {"name": f"engine {name}", "arguments": [name, f"--exportTimes={index}.json"], "times": f"{index}.json"}
        for index, name in enumerate(names)
    ]
    orders = [loop.order_of_start(start, len(names)) for start in range(starts)]
    (folder / "turns.json").write_text(json.dumps({"engines": engines, "orders": orders}))
    command = [sys.executable, "-I", str(TURNS_FILE), sys.executable, str(folder / "program.py")]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_the_engines_change_places_from_start_to_start(tmp_path: Path) -> None:
    assert run_of_turns(tmp_path, 3, "one", "two").returncode == 0
    starts = json.loads((tmp_path / "starts.json").read_text())
    assert starts == [[["one", 1], ["two", 0]], [["one", 2], ["two", 3]], [["one", 5], ["two", 4]]]
    assert run_of_turns(tmp_path, 3, "one", "two", "three").returncode == 0
    starts = json.loads((tmp_path / "starts.json").read_text())
    places = [[count % 3 for _, count in start] for start in starts]
    assert [[name for name, _ in start] for start in starts] == [["one", "two", "three"]] * 3
    assert all(sorted(of_engine) == [0, 1, 2] for of_engine in zip(*places, strict=True))


@pytest.mark.parametrize("engines", [2, 3, 4, 6])
def test_each_engine_follows_each_other_one_equally_often_one_way(engines: int) -> None:
    orders = [engine_race.one_way_order(start, engines) for start in range(loop.STARTS)]
    assert all(sorted(order) == list(range(engines)) for order in orders)
    followed = Counter(pair for order in orders for pair in itertools.pairwise(order))
    assert set(followed) == set(itertools.permutations(range(engines), 2))
    assert len(set(followed.values())) == 1


@pytest.mark.parametrize(("name", "status"), [("refused", 3), ("killed", -15), ("silent", 1)])
def test_a_run_that_fails_ends_all(name: str, status: int, tmp_path: Path) -> None:
    """`silent` ends well and writes no times: those of an earlier start do not count as its own."""
    (tmp_path / "1.json").write_text("[]")
    ended = run_of_turns(tmp_path, 2, "one", name)
    assert ended.returncode == status
    assert int((tmp_path / "count").read_text()) == 1  # the second engine comes first
    assert engine_that_failed(ended.stderr) == (None if name == "silent" else f"engine {name}")
    assert engine_that_failed(run_of_turns(tmp_path, 2, "one", "two").stderr) is None


def test_the_name_of_the_engine_is_no_reason_of_a_failure() -> None:
    assert failure_in("the reason\nedgevit-turns: failed: int8 all\n").text == "the reason"


def rows(*compute_ms: float) -> list[dict[str, float]]:
    return [
        {"computeMs": value, "h2dMs": 0.1, "d2hMs": 0.2, "startEnqMs": 1.0, "endEnqMs": 1.5, "latencyMs": value + 0.3}
        for value in compute_ms
    ]


def test_the_file_of_all_starts_is_read() -> None:
    content = json.dumps([[rows(1, 2), rows(3)], [rows(4), rows(5, 6)]]).encode()
    starts = starts_in(content, 2, 2, 1, "board")
    assert [(a.compute.tolist(), b.compute.tolist()) for a, b in starts] == [([1, 2], [3]), ([4], [5, 6])]
    np.testing.assert_allclose(starts[1][1].enqueue, 0.5)


@pytest.mark.parametrize(
    ("starts", "says"),
    [
        ([[rows(1), rows(1)]], "times of 2 starts"),
        ({}, "times of 2 starts"),
        ([[rows(1), rows(1)], [rows(1)]], "times of 2 engines"),
        ([[rows(1), rows(1)], 3], "times of 2 engines"),
        ([[rows(1), rows(1)], [rows(1), []]], "a list of runs"),
        ([[rows(1), rows(1)], [rows(1), rows(-1)]], "above 0 ms"),
    ],
)
def test_times_that_deceive_are_refused(starts: Any, says: str) -> None:
    with pytest.raises(TargetError) as caught:
        starts_in(json.dumps(starts).encode(), 2, 2, 1, "board")
    assert says in str(caught.value.expected)


def test_fewer_runs_than_asked_for_are_refused() -> None:
    with pytest.raises(TargetError, match="fewer runs"):
        starts_in(json.dumps([[rows(1, 1), rows(1)]]).encode(), 1, 2, 2, "board")


@needs_sshd
@pytest.mark.slow
def test_two_engines_race_on_their_board(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "STARTS", 6)
    engines = compiled("engine-that-races", float_onnx(), max_batch=2), compiled("engine-raced", int8(), max_batch=2)
    target = target_for("orin", Context())
    (equal,) = target.race(engines, SessionOptions(), PLAN)
    assert (equal.ratio, equal.interval) == (1, Interval(1, 1))  # one record is replayed for both
    board.standin.vary("int8-is-fast")
    (raced,) = target.race(engines, SessionOptions(), PLAN)
    assert raced.ratio == pytest.approx(2, rel=1e-4)
    assert raced.is_replayed
    assert raced.a.summary()["label"] == raced.b.summary()["label"] == "replayed"
    assert len(raced.a.samples_ms) >= 12
    assert raced.a.percentile_ms(50) == pytest.approx(3.14062, rel=0.01)  # of the recorded log
    assert (raced.a.conditions["power_mode"], raced.a.conditions["starts"]) == ("MAXN_SUPER", 6)
    assert raced.a.conditions["telemetry"]["sensors"]
    monkeypatch.setattr(engine_race, "telemetry_in", lambda *_: None)
    (raced,) = target.race(engines, SessionOptions(), PLAN)
    assert NOT_SAMPLED in raced.b.warnings
    with pytest.raises(TargetError, match="with other engines only") as caught:
        target.race((engines[0], float_onnx()), SessionOptions(), PLAN)
    assert caught.value.next == "compile its ONNX file with runtime: tensorrt and target: orin"
    with pytest.raises(TargetError, match="does not take so many images"):
        target.race(engines, SessionOptions(), MeasurePlan(0.01, 0.06, 12, batch_size=4))


@needs_sshd
@pytest.mark.slow
def test_a_comparison_says_that_its_times_are_replayed(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "STARTS", 6)
    engines = compiled("engine-compared", int8(), max_batch=2), compiled("engine-float", float_onnx(), max_batch=2)
    board.standin.vary("int8-is-fast")
    with single_stages(Context()) as stages:
        compared = compare_models(stages, engines, None, 1, None, 0.06, "orin")
    assert compared.others[0].comparison.ratio == pytest.approx(0.5, rel=1e-4)
    assert compared.others[0].speed == "replayed"
    assert not compared.other_is_worse  # replayed times decide nothing
    assert "they say nothing about the speed of the models" in str(compared)
    assert compared.as_json()["model"]["latency_ms"]["label"] == "replayed"


@needs_sshd
@pytest.mark.slow
def test_an_engine_that_another_board_built_does_not_race(board: Board) -> None:
    engine = compiled("engine-of-nano", int8(), max_batch=2)
    board.play("jetpack7-thor")
    with pytest.raises(TargetError, match="built for another machine"):
        target_for("orin", Context()).race((engine, engine), SessionOptions(), PLAN)
