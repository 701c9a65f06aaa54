"""`edgevit select`: the shortlist, its short trainings as a recipe, and what is said where nothing can be selected.

Students are timed here only in the slow test: timings of a machine of known speed are kept beforehand.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from edgevit.actions.init_recipe import Findings, InitOptions, look_at_folder
from edgevit.actions.select_student import TrialOptions, _about, predictor, selected_by_prediction, trial_recipe
from edgevit.actions.student_choice import ChosenStudent, WeightSources, architecture, students_within
from edgevit.cli import app
from edgevit.configs import Evaluate, Quantize, Select, Train
from edgevit.context import Context
from edgevit.errors import CheckFailed, DataError, RecipeError
from edgevit.evaluation import AccuracyRecord
from edgevit.recipe import load_recipe
from edgevit.selection.candidates import shortlist
from edgevit.selection.choice import ROOM
from edgevit.selection.records import Timing
from tests.known_machine import keep_timings, machine
from tests.said import Said
from tests.test_files import photos

OFFLINE = WeightSources(offline=True)


def test_the_shortlist_is_the_most_capable_student_and_smaller_ones_of_other_families() -> None:
    within = students_within(OFFLINE, machine(1), 3.0, None, 4)
    candidates = list(within)
    assert 2 <= len(candidates) <= 4
    assert len({architecture(candidate.model) for candidate in candidates}) == len(candidates)
    assert [candidate.macs for candidate in candidates] == sorted((each.macs for each in candidates), reverse=True)
    assert all(timing.p50_high_ms <= ROOM * 3.0 for timing in within.values())
    able = [candidate for candidate in shortlist() if machine(1)(candidate).p50_high_ms <= ROOM * 3.0]
    assert candidates[0] == able[-1]
    assert list(students_within(OFFLINE, machine(1), 3.0, None, 2)) == candidates[:2]


def found_in(folder: Path) -> Findings:
    given = InitOptions(folder, folder.parent / "new.yaml", latency_ms=3.0, size_mib=40.0, offline=True)
    return look_at_folder(given, Context())


@pytest.mark.parametrize("board", [None, "orin-nano-8gb"])
def test_the_short_trainings_are_a_recipe_that_run_accepts(tmp_path: Path, board: str | None) -> None:
    found = found_in(photos(tmp_path / "photos", {"a": 60, "b": 60}))
    students = {
        candidate.model: ChosenStudent(candidate, None, timing)
        for candidate, timing in students_within(OFFLINE, machine(1), 3.0, None, 3).items()
    }
    trials = TrialOptions(students=3, epochs=2, runs=tmp_path / "runs", board=board)
    recipe = trial_recipe(found, students, trials, tmp_path)
    file = tmp_path / "again.yaml"
    with file.open("w") as stream:
        YAML(typ="safe").dump(recipe.model_dump(mode="json", exclude_none=True), stream)
    again = load_recipe(file)
    trainings = [stage for stage in again.stages if isinstance(stage, Train)]
    assert [stage.model for stage in trainings] == list(students)
    assert {stage.epochs for stage in trainings} == {2}
    selects = [stage for stage in again.stages if isinstance(stage, Select)]
    evaluated = [stage for stage in again.stages if isinstance(stage, Evaluate)]
    assert any(isinstance(stage, Quantize) for stage in again.stages) is (board is None)
    if board is None:
        (stage,) = selects
        assert stage.models == tuple(f"int8/{name}" for name in students)
        assert (stage.data, stage.latency_ms, evaluated) == ("photos.val", 3.0, [])
    else:  # a race on this machine would decide by its latencies
        assert [(stage.model, stage.data) for stage in evaluated] == [
            (f"onnx/{name}", "photos.val") for name in students
        ]
        assert not selects


def test_for_a_board_the_predicted_latencies_decide_between_equal_students(tmp_path: Path) -> None:
    labels = np.arange(100) % 2
    right = AccuracyRecord(tuple(map(str, range(100))), ("a", "b"), labels, labels)
    timings = {name: fast_in(p50_ms) for name, p50_ms in {"slow": 5.0, "fast": 3.0}.items()}
    options = InitOptions(tmp_path, tmp_path / "new.yaml", latency_ms=6.0)
    selection = selected_by_prediction(dict.fromkeys(timings, right), timings, options)
    assert (selection["winner"], selection["label"]) == ("fast", "predicted")
    assert [(row["id"], row["on_front"]) for row in selection["models"]] == [("slow", False), ("fast", True)]
    said = list(_about(selection, "orin-nano-8gb"))
    assert "p50 predicted for orin-nano-8gb, with 90% intervals" in said[1]
    assert said[2].startswith("    fast: top-1 100.0% (")
    assert "predicted p50 3 ms (2 to 4)" in said[2]
    wrong = AccuracyRecord(right.sample_ids, right.classes, labels, 1 - labels)
    with pytest.raises(CheckFailed, match="no model meets the budget"):
        selected_by_prediction(dict.fromkeys(timings, wrong), timings, options)


def fast_in(p50_ms: float) -> Timing:
    form = "float16, predicted"
    return Timing(
        macs=1, params=1, size_bytes=1, form=form, p50_ms=p50_ms, p50_low_ms=p50_ms - 1, p50_high_ms=p50_ms + 1
    )


def select(folder: Path, *options: object) -> str:
    out = folder.parent / "new.yaml"
    command = ["select", "--data", folder, "--offline", "--out", out, "--runs", folder.parent / "runs", *options]
    answer = CliRunner().invoke(app, list(map(str, command)), catch_exceptions=False)
    assert answer.exit_code == 0, answer.output
    return answer.output


def test_a_budget_that_no_student_meets_is_said_before_any_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEVIT_CACHE", str(tmp_path / "cache"))
    keep_timings(2)
    folder = photos(tmp_path / "photos", {"a": 60, "b": 60})
    with pytest.raises(CheckFailed, match=r"no student meets the budget of 0\.1 ms here") as caught:
        select(folder, "--latency-ms", 0.1)
    assert str(caught.value.next).endswith("can be met")
    assert caught.value.exit_code == 1
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "new.yaml").exists()


def test_few_images_leave_none_to_validate_on(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images to validate students on"):
        select(photos(tmp_path / "photos", {"a": 12, "b": 12}), "--latency-ms", 3)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--board", "orin-nona-8gb"], "orin-nano-8gb"),
        (["--board", "orin-nano-8gb", "--target", "board"], "a board is predicted, and a target is measured"),
        (["--target", "local-gpu"], "select compares ONNX files"),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, options: list[str], says: str) -> None:
    folder = photos(tmp_path / "photos", {"a": 60, "b": 60})
    with pytest.raises(RecipeError) as caught:
        select(folder, "--latency-ms", 3, *options)
    assert says in str(caught.value)


def test_a_prediction_says_that_it_is_one() -> None:
    progress = Said()
    predict = predictor(2, "orin-nano-8gb", Context(progress=progress))
    smallest = shortlist()[0]
    timing: Timing = predict(smallest)
    assert timing.p50_low_ms < timing.p50_ms < timing.p50_high_ms
    assert timing.form == "float16, predicted"
    assert predict(smallest) is timing
    (line,) = progress.lines
    assert line.startswith(f"    predicted {timing.p50_ms:.3g} ms (90% interval ")
    assert line.endswith(str(smallest))


@pytest.mark.slow
def test_students_train_and_the_recipe_of_one_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEVIT_CACHE", str(tmp_path / "cache"))
    folder = photos(tmp_path / "photos", {"a": 60, "b": 60})
    said = select(folder, "--latency-ms", 1000, "--students", 2, "--epochs", 1)
    assert "2 students train for 1 epoch each" in said
    assert "selected: " in said
    assert "Pareto front after the short trainings" in said
    recipe = load_recipe(tmp_path / "new.yaml")
    assert recipe.budget.latency_ms == 1000
    assert "selected of 2 after 1 epoch" in (tmp_path / "new.yaml").read_text()
