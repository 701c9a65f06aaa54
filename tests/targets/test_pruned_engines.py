"""Pruning to a share of an engine's latency, on a board over a real SSH server. A stand-in plays the board."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from edgevit.artifacts import Artifact
from edgevit.compression import latency_search
from edgevit.context import Context
from edgevit.errors import ParityError, RecipeError, TargetError
from edgevit.profiling import MeasurePlan, loop
from edgevit.targets import base
from tests.said import Said
from tests.small_models import VIT, workbench
from tests.targets.ssh_host import needs_sshd
from tests.targets.test_tensorrt_journey import Board, board

__all__ = ["board"]  # a fixture
pytestmark = [needs_sshd, pytest.mark.slow]
SHARE = 0.8


@pytest.fixture(autouse=True)
def short_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "STARTS", 6)
    monkeypatch.setattr(latency_search, "STEPS", 2)
    monkeypatch.setattr(base, "CHOICE", MeasurePlan(warmup_s=0.01, duration_s=0.06, min_runs=12))


@cache
def whole() -> Artifact:
    return workbench().run("load", "whole", **VIT, classes=("cat", "dog"))


def pruned(context: Context | None = None, share: float = SHARE) -> Artifact:
    return workbench().run(
        "prune", "pruned-by-engines", context, again=True, model=whole().id, keep_latency=share, score="magnitude",
        runtime="tensorrt", target="orin",
    )  # fmt: skip


def bytes_in_float16(model: Artifact) -> int:
    """Of the ONNX file, by which the stand-in's times go."""
    made = workbench().run("export", f"{model.id}-float16", model=model.id, precision="float16")
    return made.file("model.onnx").stat().st_size


def test_the_largest_share_whose_engine_is_fast_enough(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    """No board is here. The replayed times are taken for measured; all else is the same."""
    monkeypatch.setattr(latency_search, "check_is_measured", lambda *_: None)
    board.standin.vary("small-is-fast")
    said = Said()
    made = pruned(Context(progress=said))
    timed = made.metrics["timed"]
    assert len(timed) == 3
    assert bytes_in_float16(made) / bytes_in_float16(whole()) == pytest.approx(
        max(one["latency"] for one in timed if one["latency"] <= SHARE), abs=0.01
    )
    assert sorted(timed, key=lambda one: one["keep"]) == sorted(timed, key=lambda one: one["latency"])
    names = ["whole", *(f"trial {place}, keep {one['keep']:.3f}" for place, one in enumerate(timed, 1))]
    assert [line for line in said.lines if "building its engine" in line] == [
        f"    {name}: building its engine on orin" for name in names
    ]
    kept = {name: entry.content for name, entry in made.manifest.files.items() if name.startswith("engines/")}
    assert kept == dict.fromkeys((f"engines/{name}/build.log" for name in names), False)
    assert made.manifest.ingredients["target"]["runtime"] == "tensorrt"


def test_no_share_of_an_engine_is_that_fast(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency_search, "check_is_measured", lambda *_: None)
    board.standin.vary("small-is-fast")
    with pytest.raises(RecipeError, match="cannot make the model so fast"):
        pruned(share=0.01)


def test_replayed_times_of_engines_choose_no_share(board: Board) -> None:
    with pytest.raises(TargetError, match=r"(?s)stand-in replays.*keep_latency: 0\.8.*keep_macs"):
        pruned()


def test_a_wrong_engine_is_never_timed(board: Board) -> None:
    board.standin.vary("wrong-outputs")
    with pytest.raises(ParityError, match="output 'logits' of the engine differs") as caught:
        pruned()
    command = str(caught.value.next).split("edgevit compile ")[1]
    assert Path(command.split(" --")[0].strip("'")).is_file()  # what the proposed command reads
