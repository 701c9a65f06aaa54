"""The seconds left of a run: what is known of its stages, and what is said of it."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from edgevit import pipeline, stage_times
from edgevit.artifacts import Contents
from edgevit.context import Context
from edgevit.data import dataset_artifacts
from edgevit.pipeline import run
from edgevit.progress import PlainProgress, duration, of_run
from edgevit.recipe import Recipe, load_recipe
from edgevit.stage_times import RunClock, StageSeconds, clock_of, expected_s, keep_times, kept_times, work_keys

RECIPE = """
name: r
datasets: {digits: {source: digits, few_shot: {shots: 2, draw: 0}}}
stages:
  - {stage: train, id: student, model: test_vit, image_size: 32, data: digits.support, epochs: 2}
  - {stage: evaluate, id: accuracy, model: student, data: digits.test}
  - {stage: export, id: onnx, model: student}
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEVIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def recipe(folder: Path, text: str = RECIPE) -> Recipe:
    (folder / "r.yaml").write_text(text)
    return load_recipe(folder / "r.yaml")


def keys_of(loaded: Recipe, folder: Path, device: str = "cpu") -> dict[str, str]:
    return work_keys(loaded, dataset_artifacts(loaded.datasets, folder, loaded.dataset_names()), device)


def test_the_time_left_is_that_of_the_running_stage_and_of_the_later_ones() -> None:
    seconds = [0.0]
    clock = RunClock({"a": 10.0, "b": 100.0, "c": 5.0}, lambda: seconds[0])
    clock.start("a")
    assert clock.left_s() == 115
    seconds[0] = 4
    assert clock.left_s() == 111
    seconds[0] = 30  # a takes longer than it did before
    assert clock.left_s() == 105
    assert clock.left_s(of_bar_s=20) == 125
    clock.start("b")
    seconds[0] = 60
    assert clock.left_s(of_bar_s=50) == 75  # the bar may not be the last one of the stage
    assert clock.left_s(of_bar_s=90) == 95
    clock.start("of a stage that was finished before")
    assert clock.left_s() == 5


def test_nothing_is_said_where_a_stage_is_unknown() -> None:
    clock = RunClock({"a": None, "b": 100.0, "c": None, "d": 1.0})
    clock.start("a")
    assert clock.left_s(of_bar_s=20) is None
    clock.start("b")
    assert clock.left_s() is None
    clock.start("c")
    assert clock.left_s() is None
    assert clock.left_s(of_bar_s=20) is None


def test_work_is_the_same_with_other_epochs_alone(tmp_path: Path) -> None:
    keys = keys_of(recipe(tmp_path), tmp_path)
    assert len(set(keys.values())) == 3
    assert keys_of(recipe(tmp_path, RECIPE.replace("epochs: 2", "epochs: 40")), tmp_path) == keys
    larger = keys_of(recipe(tmp_path, RECIPE.replace("image_size: 32", "image_size: 64")), tmp_path)
    assert not set(keys.values()) & set(larger.values())
    others = keys_of(recipe(tmp_path, RECIPE.replace("draw: 0", "draw: 1")), tmp_path)
    assert not set(keys.values()) & set(others.values())
    assert keys_of(recipe(tmp_path), tmp_path, "cuda") != keys


def test_a_training_counts_by_its_epochs_and_short_stages_by_their_kind(tmp_path: Path) -> None:
    train, evaluate, export = recipe(tmp_path, RECIPE.replace("epochs: 2", "epochs: 40")).stages
    times = {
        "work": StageSeconds(kind="train", seconds=3),
        **{name: StageSeconds(kind="export", seconds=seconds) for name, seconds in (("a", 1), ("b", 8), ("c", 9))},
    }
    assert expected_s(train, "work", times) == 120
    assert expected_s(train, "other work", times) is None
    assert expected_s(export, "other work", times) == 8
    assert expected_s(export, "c", times) == 9
    assert expected_s(evaluate, "other work", times) is None


def test_the_times_of_a_run_are_kept_and_expected_of_the_next(tmp_path: Path, cache: Path) -> None:
    loaded = recipe(tmp_path, RECIPE.replace("  - {stage: export, id: onnx, model: student}\n", ""))
    keys = keys_of(loaded, tmp_path)
    assert clock_of(loaded, keys, {"student"}).expected_s == {"student": None}
    done = run(loaded, tmp_path, tmp_path / "runs", Context(workers=0))
    taken_s = {stage.id: done[stage.id].manifest.provenance["seconds"] for stage in loaded.stages}
    assert clock_of(loaded, keys, set(keys)).expected_s == pytest.approx(taken_s)
    file = cache / "stage_seconds.json"
    before = file.stat().st_mtime_ns
    run(loaded, tmp_path, tmp_path / "runs", Context(workers=0))
    assert file.stat().st_mtime_ns == before  # nothing was made


def test_the_seconds_of_the_last_part_of_an_interrupted_stage_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = recipe(tmp_path, RECIPE.replace("  - {stage: export, id: onnx, model: student}\n", ""))

    def interrupted(config: object, inputs: object, context: Context, out: Path) -> Contents:
        (context.work / "saved").write_text("")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "stage_function", lambda name: interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(loaded, tmp_path, tmp_path / "runs", Context(workers=0))
    done = run(loaded, tmp_path, tmp_path / "runs", Context(workers=0))
    expected = clock_of(loaded, keys_of(loaded, tmp_path), {"student", "accuracy"}).expected_s
    assert done["student"].manifest.provenance["resumed"]
    assert expected["student"] is None
    assert expected["accuracy"] == done["accuracy"].manifest.provenance["seconds"]


def test_kept_times_are_bounded_and_need_no_folder(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage_times, "MOST_KEPT", 3)
    for number in range(5):
        keep_times({str(number): StageSeconds(kind="train", seconds=number)})
    keep_times({"3": StageSeconds(kind="train", seconds=7)})
    assert {key: kept.seconds for key, kept in kept_times().items()} == {"2": 2, "4": 4, "3": 7}
    for text in ("", "{", '{"a": {"kind": "train", "seconds": -1}}', " " * (stage_times.LONGEST_BYTES + 1)):
        (cache / "stage_seconds.json").write_text(text)
        assert kept_times() == {}
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGEVIT_CACHE", os.fspath(tmp_path / "file"))
    keep_times({"a": StageSeconds(kind="train", seconds=1)})
    assert kept_times() == {}


def test_lines_tell_the_time_left_of_the_run_if_it_is_known() -> None:
    for left_s, said in ((300.0, ", run 5 min left"), (None, ""), (3.0, "")):
        stream = io.StringIO()

        def run_left_s(of_bar_s: float | None, left_s: float | None = left_s) -> float | None:
            return left_s

        with of_run(PlainProgress(stream, every_s=0), run_left_s).bar("train", 4) as bar:
            bar.advance(1, loss=0.5)
            bar.advance(3)
        first, *_, last = stream.getvalue().splitlines()
        assert f" s left{said}, loss 0.5" in first
        assert "left" not in last


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "1 s"), (59, "59 s"), (700, "12 min"), (9000, "2.5 h")])
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text
