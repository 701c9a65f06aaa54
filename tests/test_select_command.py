"""`edgevit select`: the shortlist, its short trainings as a recipe, and what is said where nothing can be selected.

Students are timed here only in the slow test: timings of a machine of known speed are kept beforehand.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML
from safetensors.torch import save_file
from typer.testing import CliRunner

import edgevit
from edgevit.actions import short_trainings
from edgevit.actions.init_recipe import (
    Findings,
    InitOptions,
    in_project,
    look_at_folder,
    recipe_for_student,
    short_recipe,
    with_images_to_compare_by,
)
from edgevit.actions.select_student import (
    HELD_BACK,
    TrialOptions,
    _about,
    _compared,
    _over_budget,
    predictor,
    selected_by_prediction,
)
from edgevit.actions.short_trainings import (
    TrialRunner,
    TrialStages,
    _free_first,
    recipe_of_finalists,
    train_in_rounds,
    trial_stages,
)
from edgevit.actions.student_choice import (
    ChosenStudent,
    Weights,
    WeightSources,
    architecture,
    sizes_of_bodies,
    students_within,
)
from edgevit.actions.training_time import images_of_epoch
from edgevit.cli import app
from edgevit.configs import Distill, Evaluate, Quantize, Select, Train
from edgevit.context import Context
from edgevit.data import open_dataset
from edgevit.errors import ArtifactError, CheckFailed, ConnectionLost, DataError, RecipeError, TargetError
from edgevit.evaluation import AccuracyRecord
from edgevit.evaluation.accuracy import Share
from edgevit.models.creation import create_model
from edgevit.pipeline import datasets_of, ingredients_of, resolve
from edgevit.recipe import load_recipe
from edgevit.selection.candidates import Candidate, shortlist
from edgevit.selection.choice import ROOM
from edgevit.selection.halving import Round, rounds_of
from edgevit.selection.records import Timing
from edgevit.selection.winner import MeasuredModel, OverBudget, SelectionLimits, no_winner, winner_of
from edgevit.store import Store
from tests.known_machine import keep_timings, machine
from tests.said import Said
from tests.test_files import photos

OFFLINE = WeightSources(offline=True, prefers_bodies=False)
ROOT = Path(__file__).parents[1]


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


def test_an_architecture_that_is_faster_here_than_expected_is_not_overlooked() -> None:
    """Expected latencies are of another processor. One of these is half as long here, all others are right."""

    def time(candidate: Candidate) -> Timing:
        factor = 0.5 if candidate.model == "mobilenetv4_hybrid_medium" else 1.0
        return fast_in(factor * candidate.expected_ms, margin_ms=0)

    within = students_within(OFFLINE, time, 2.5, None, 3)
    assert next(iter(within)).model == "mobilenetv4_hybrid_medium"
    assert within.keys() - {next(iter(within))} <= students_within(OFFLINE, machine(1), 2.5, None, 3).keys()


def test_students_that_start_from_a_body_come_first_and_larger_ones_fill_up() -> None:
    first, *others = students_within(WeightSources(offline=True), machine(1), 3.0, None, 4)
    assert first == [size for size in sizes_of_bodies() if machine(1)(size).p50_high_ms <= ROOM * 3.0][-1]
    assert others == list(students_within(OFFLINE, machine(1), 3.0, None, 3))


def test_random_students_fill_the_places_that_a_file_of_weights_leaves(tmp_path: Path) -> None:
    """Without this, the file's own network at a smaller size is compared with nothing."""
    file = tmp_path / "resnet10t.safetensors"
    file.touch()
    sources = WeightSources(Weights("resnet10t", file), offline=True, prefers_bodies=False)
    first, *others = students_within(sources, machine(1), 12.0, None, 4)
    assert first.model == "resnet10t"
    assert others == list(students_within(OFFLINE, machine(1), 12.0, None, 3))


def test_a_prediction_meets_a_budget_with_the_upper_bound_of_its_interval() -> None:
    def predict(candidate: Candidate) -> Timing:
        return fast_in(10 * candidate.expected_ms, 0.4 * 10 * candidate.expected_ms)

    smallest = shortlist()[0]
    low_ms, high_ms = predict(smallest).p50_ms, predict(smallest).p50_high_ms
    budget_ms = low_ms / ROOM + 0.1  # the prediction is within it, with room
    assert low_ms < ROOM * budget_ms < high_ms
    with pytest.raises(CheckFailed) as caught:
        students_within(OFFLINE, predict, budget_ms, None, 4, "on orin-nano-8gb, as predicted")
    assert f"(90% interval {predict(smallest).p50_low_ms:.3g} to {high_ms:.3g})" in str(caught.value.got)
    assert caught.value.expected == "upper bound of the interval at most 90% of the budget, to leave room for scatter"
    advised, _, rest = str(caught.value.next).removeprefix("--latency-ms ").partition(" ")
    assert rest == "is predicted to be met"
    assert students_within(OFFLINE, predict, float(advised), None, 4)


def test_a_size_that_none_of_the_shortlist_meets_is_not_said_of_all_students() -> None:
    """The shortlist is by latency: the catalog has smaller models."""
    with pytest.raises(CheckFailed, match=r"student of the shortlist meets the budget of 50 ms and 0\.5 MiB") as caught:
        students_within(OFFLINE, machine(1), 50.0, 0.5, 4)
    assert caught.value.next == (
        "--size-mib 1 can be met; edgevit models lists smaller ones, for edgevit init --student"
    )


def found_in(folder: Path, latency_ms: float = 3.0) -> Findings:
    given = InitOptions(folder, folder.parent / "new.yaml", latency_ms=latency_ms, size_mib=40.0, offline=True)
    return look_at_folder(given, in_project(given, Context()))


def of_the_shortlist(count: int) -> dict[str, ChosenStudent]:
    within = students_within(OFFLINE, machine(1), 3.0, None, count)
    return {candidate.model: ChosenStudent(candidate, None, timing) for candidate, timing in within.items()}


@pytest.mark.parametrize("on_target", [True, False])
def test_the_short_trainings_are_a_recipe_that_run_accepts(tmp_path: Path, on_target: bool) -> None:
    found = found_in(photos(tmp_path / "photos", {"a": 60, "b": 60}))
    students, rounds = of_the_shortlist(3), rounds_of(3, 6)
    stages = trial_stages(found, students, rounds, on_target)
    file = tmp_path / "again.yaml"
    with file.open("w") as stream:
        recipe = recipe_of_finalists(stages, tuple(students), found, on_target)
        YAML(typ="safe").dump(recipe.model_dump(mode="json", exclude_none=True), stream)
    again = load_recipe(file)
    trainings = [stage for stage in again.stages if isinstance(stage, Train)]
    assert [stage.model for stage in trainings if stage.model] == list(students)
    for name in students:
        first, second = (stage for stage in trainings if stage.id.endswith(f"/{name}"))
        assert (first.epochs, second.epochs) == (2, 4)  # 6 in all
        assert second.init == first.id
        assert first.seed != second.seed
        assert first.val == second.val == "photos.val"
    selects = [stage for stage in again.stages if isinstance(stage, Select)]
    evaluated = [stage for stage in again.stages if isinstance(stage, Evaluate)]
    assert any(isinstance(stage, Quantize) for stage in again.stages) is on_target
    if on_target:
        (stage,) = selects
        assert stage.models == tuple(f"int8/{name}" for name in students)
        assert (stage.data, stage.latency_ms, evaluated) == ("photos.val", 3.0, [])
    else:  # a race on this machine would decide by its latencies
        assert [(stage.model, stage.data) for stage in evaluated] == [
            (f"onnx/{name}", "photos.val") for name in students
        ]
        assert not selects


TINY = {"lcnet_035": 64, "lcnet_050": 64, "mobilenetv3_small_050": 64}


def tiny_trainings(folder: Path, wild: str | None = None) -> tuple[TrialStages, tuple[Round, ...], TrialRunner]:
    """Three students in two rounds, of 1 and 2 epochs in all. A student may have a rate that makes it diverge."""
    images = folder / "photos"
    found = found_in(images if images.exists() else photos(images, {"a": 30, "b": 30}), latency_ms=1000)
    students = {
        name: ChosenStudent(Candidate(model=name, image_size=side, macs=1, expected_ms=1), None)
        for name, side in TINY.items()
    }
    rounds = (Round(3, 1), Round(2, 2))
    stages = trial_stages(found, students, rounds, on_target=True)
    if wild is not None:
        rates = {"optimizer": "sgd", "learning_rate": 1000.0, "weight_decay": 1e6, "warmup_fraction": 0.0}
        trainings = tuple(stage.model_copy(update=rates) for stage in stages.rounds[wild])
        stages = replace(stages, rounds={**stages.rounds, wild: trainings})
    said = Context(progress=Said(), workers=0)
    recipe = recipe_of_finalists(stages, tuple(TINY), found, on_target=True)
    datasets = datasets_of(recipe, folder, folder / "runs", said)
    return stages, rounds, TrialRunner(folder, folder / "runs", said, datasets)


def lines_of(runner: TrialRunner) -> list[str]:
    progress = runner.context.progress
    assert isinstance(progress, Said)
    return progress.lines


def test_students_train_on_from_their_own_checkpoints_and_nothing_is_trained_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(short_trainings, "LEAST_TOLD_S", 0.0)
    stages, rounds, runner = tiny_trainings(tmp_path)
    trained = train_in_rounds(stages, rounds, runner)
    assert [record["epochs"] for record in trained.rounds] == [1, 2]
    first, second = (
        {row["student"]: row["val_top1"] for row in record["students"] if row["goes_on"]} for record in trained.rounds
    )
    assert len(trained.rounds[0]["students"]) == 3
    assert set(first) == set(second) == set(trained.finalists)
    assert len(first) == 2
    lines = lines_of(runner)
    assert lines[0] == "round 1 of 2: 3 students to epoch 1"
    assert sum("for all rounds" in line for line in lines) == 1
    assert any(line.endswith(", is out") for line in lines)
    made = runner.run(stages.until(trained.finalists[0], 1))
    assert made[f"student-2/{trained.finalists[0]}"].manifest.inputs["init"].digest == (
        made[f"student-1/{trained.finalists[0]}"].digest
    )
    lines.clear()
    assert train_in_rounds(stages, rounds, runner) == trained
    assert not any("student-" in line for line in lines)  # no stage ran


def test_a_killed_selection_goes_on_and_ends_as_one_that_was_not_killed(tmp_path: Path) -> None:
    for name in ("killed", "whole"):
        (tmp_path / name).mkdir()
    code = "import sys; from tests import test_select_command as t; t.train_tiny_students(sys.argv[1])"
    finished = tmp_path / "killed" / "runs" / "photos-select" / "student-1" / next(iter(TINY))
    with subprocess.Popen([sys.executable, "-c", code, tmp_path / "killed"], cwd=ROOT) as process:
        while not finished.exists() and process.poll() is None:
            time.sleep(0.02)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    stages, rounds, runner = tiny_trainings(tmp_path / "killed")
    after_kill = train_in_rounds(stages, rounds, runner)
    assert not any(f"student-1/{next(iter(TINY))}" in line for line in lines_of(runner))
    assert after_kill == train_in_rounds(*tiny_trainings(tmp_path / "whole"))


def train_tiny_students(folder: str) -> None:
    train_in_rounds(*tiny_trainings(Path(folder)))


def test_a_student_whose_training_diverges_drops_out_and_is_not_trained_again(tmp_path: Path) -> None:
    stages, rounds, runner = tiny_trainings(tmp_path, wild="lcnet_050")
    trained = train_in_rounds(stages, rounds, runner)
    assert list(trained.dropped) == ["lcnet_050"]
    assert "training diverged" in trained.dropped["lcnet_050"]
    assert sorted(trained.finalists) == ["lcnet_035", "mobilenetv3_small_050"]
    lines = lines_of(runner)
    assert any(line.startswith("    lcnet_050 drops out: training diverged") for line in lines)
    lines.clear()
    assert train_in_rounds(stages, rounds, runner) == trained
    assert not any("student-" in line for line in lines)  # no stage ran
    assert train_in_rounds(stages, rounds, replace(runner, retry_diverged=True)) == trained
    assert [line for line in lines if "(train)" in line] == ["[1/1] student-1/lcnet_050 (train)"]


def test_the_next_student_trains_on_in_place_of_a_finalist_that_diverges(tmp_path: Path) -> None:
    stages, rounds, runner = tiny_trainings(tmp_path)
    calm = train_in_rounds(stages, rounds, runner)
    (out,) = (row["student"] for row in calm.rounds[0]["students"] if not row["goes_on"])
    wild, other = calm.finalists
    first, _ = stages.rounds[wild]
    _, second = tiny_trainings(tmp_path, wild)[0].rounds[wild]
    trained = train_in_rounds(replace(stages, rounds={**stages.rounds, wild: (first, second)}), rounds, runner)
    assert list(trained.dropped) == [wild]
    assert set(trained.finalists) == {other, out}
    assert {row["student"] for row in trained.rounds[1]["students"]} == {other, out}
    assert any(f"; {out} trains on in its place" in line for line in lines_of(runner))


def test_a_second_process_takes_the_trainings_that_nobody_makes(tmp_path: Path) -> None:
    """The first student is being made elsewhere: it comes last."""
    stages, _, runner = tiny_trainings(tmp_path)
    names = list(TINY)
    recipe = stages.until(names[0], 0)
    context = replace(runner.context, recipe_name=recipe.name, folder=runner.base)
    (stage,) = recipe.stages
    store = Store(runner.runs / ".store")
    key = store.key(ingredients_of(stage, resolve(stage, runner.datasets), context))
    assert not runner.is_being_made(recipe)
    assert not (store.root / "lock" / key).exists()  # who asks leaves nothing
    with held_elsewhere(store.root / "lock" / key, "LOCK_SH"):
        assert not runner.is_being_made(recipe)  # another one asks at the same time
    with held_elsewhere(store.root / "lock" / key):
        assert runner.is_being_made(recipe)
        assert list(_free_first(names, stages, 0, runner)) == [*names[1:], names[0]]
    assert list(_free_first(names, stages, 0, runner)) == names


@contextmanager
def held_elsewhere(file: Path, how: str = "LOCK_EX") -> Iterator[None]:
    """Another process holds the lock."""
    code = f"import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.{how}); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code, file], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        yield
        process.communicate(b"\n")


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
    with pytest.raises(CheckFailed, match="no model is shown to be better than a constant guess"):
        selected_by_prediction(dict.fromkeys(timings, wrong), timings, options)


def fast_in(p50_ms: float, margin_ms: float = 1) -> Timing:
    return Timing(
        macs=1,
        params=1,
        size_bytes=1,
        form="float16, predicted",
        p50_ms=p50_ms,
        p50_low_ms=p50_ms - margin_ms,
        p50_high_ms=p50_ms + margin_ms,
        is_predicted=True,
    )


def test_finalists_over_the_budget_are_named_in_the_words_of_the_command(tmp_path: Path) -> None:
    labels = np.arange(100) % 2
    right = AccuracyRecord(tuple(map(str, range(100))), ("a", "b"), labels, labels)
    models = [MeasuredModel("int8/lcnet_050-64", right, Share(0.39, 0.385, 0.395), 2**20)]
    limits = SelectionLimits(latency_ms=0.3)
    error = no_winner(models, limits, winner_of(models, limits), "stage 'selected'")
    assert isinstance(error, OverBudget)
    said = _over_budget(error, tmp_path)
    assert (said.where, said.next) == (tmp_path, "lcnet_050-64 meets --latency-ms 0.395")
    assert str(said.got).startswith("lcnet_050-64: p50 0.39 ms")


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


def test_python_selects_as_the_command_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A budget that only the smallest student meets: nothing is trained."""
    monkeypatch.setenv("EDGEVIT_CACHE", str(tmp_path / "cache"))
    keep_timings(2)
    folder, out, runs = photos(tmp_path / "photos", {"a": 60, "b": 60}), tmp_path / "new.yaml", tmp_path / "runs"
    smallest = shortlist()[0]
    limit_ms = 1.01 * machine(1)(smallest).p50_high_ms / ROOM
    with pytest.raises(CheckFailed, match="can be met"):
        edgevit.select(folder, 0.1, out, runs=runs, offline=True)
    selected = edgevit.select(folder, limit_ms, out, runs=runs, offline=True)
    assert selected.student == smallest
    assert (selected.selection, selected.rounds) == (None, ())
    assert "the only one of the shortlist within the budget" in str(selected)
    assert load_recipe(out).budget.latency_ms == pytest.approx(limit_ms)
    assert not runs.exists()
    with pytest.raises(ArtifactError, match="the path is already taken"):
        edgevit.select(folder, limit_ms, out, runs=runs, offline=True)
    (tmp_path / "file").touch()
    for wrong, says in {tmp_path: "this is a folder", tmp_path / "file" / "new.yaml": "in the way"}.items():
        with pytest.raises(RecipeError, match=says):
            edgevit.select(folder, limit_ms, wrong, runs=runs, offline=True, overwrite=True)
    for options in ({"target": 5}, {"board": 3}, {"teacher": 3}, {"offline": "no"}, {"retry_diverged": 1}):
        with pytest.raises(RecipeError, match="this is n"):
            edgevit.select(folder, limit_ms, tmp_path / "other.yaml", **options)
    said = select(folder, "--latency-ms", limit_ms, "--force")
    assert said.splitlines()[-1].endswith(f"new.yaml --runs {runs}")  # the recipe finds the teacher there
    with pytest.raises(RecipeError, match="students"):
        edgevit.select(folder, limit_ms, out, students=1, runs=runs, offline=True, overwrite=True)


def test_folders_of_train_and_test_leave_no_images_to_validate_on(tmp_path: Path) -> None:
    for split in ("train", "test"):
        photos(tmp_path / "photos" / split, {"a": 12, "b": 12})
    with pytest.raises(DataError, match="no images to validate students on") as caught:
        select(tmp_path / "photos", "--latency-ms", 3)
    assert "into a folder val" in str(caught.value.next)


@pytest.mark.parametrize("count", [5, 40])
def test_a_folder_val_without_test_is_the_test_images(tmp_path: Path, count: int) -> None:
    for split in ("train", "val"):
        photos(tmp_path / "photos" / split, {"a": count, "b": count})
    with pytest.raises(DataError, match="no images to validate students on") as caught:
        select(tmp_path / "photos", "--latency-ms", 3)
    assert "val is the test images" in str(caught.value.got)
    assert "into a folder test" in str(caught.value.next)


def test_few_labels_in_three_folders_are_compared_on_val(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        photos(tmp_path / "photos" / split, {"a": 5, "b": 5})
    found = found_in(tmp_path / "photos")
    assert (found.images.few, found.images.val) == (True, None)
    to_compare = with_images_to_compare_by(found, HELD_BACK)
    stages = trial_stages(to_compare, of_the_shortlist(2), rounds_of(2, 1), on_target=True)
    recipe = recipe_of_finalists(stages, tuple(stages.rounds), to_compare, True)
    roles = datasets_of(recipe, tmp_path, tmp_path, Context())
    assert all(name.startswith("val/") for name in open_dataset(roles["photos.val"]).sample_ids)
    assert len(open_dataset(roles["photos.support"]).sample_ids) == 10


def test_classes_too_small_for_the_roles_are_refused_before_any_timing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images to validate students on") as caught:
        select(photos(tmp_path / "photos", {"a": 2, "b": 2}), "--latency-ms", 3)
    assert "3 of each class or more" in str(caught.value.expected)


def test_of_few_labels_some_are_held_back_to_compare_by(tmp_path: Path) -> None:
    found = found_in(photos(tmp_path / "photos", {"a": 5, "b": 5}))
    assert found.images.val is None
    held_back = with_images_to_compare_by(found, HELD_BACK)
    stages = trial_stages(held_back, of_the_shortlist(2), rounds_of(2, 1), on_target=True)
    roles = datasets_of(
        recipe_of_finalists(stages, tuple(stages.rounds), held_back, True), tmp_path, tmp_path, Context()
    )
    support, val = (open_dataset(roles[f"photos.{role}"]) for role in ("support", "val"))
    assert set(support.sample_ids).isdisjoint(val.sample_ids)
    assert set(support.labels.tolist()) == set(val.labels.tolist()) == {0, 1}
    enough = found_in(photos(tmp_path / "many", {"a": 60, "b": 60}))
    assert with_images_to_compare_by(enough, HELD_BACK) is enough


def noise(folder: Path, labelled: int = 5) -> tuple[Findings, dict[str, ChosenStudent], Context]:
    """Labelled images of noise, so many a class, twelve without labels, and a teacher with random weights."""
    images = {"a": labelled, "b": labelled, "unlabelled": 12}
    draw = np.random.default_rng(0)
    for name, count in images.items():
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(draw.integers(0, 256, (32, 32, 3), np.uint8)).save(
                folder / "photos" / name / f"{number}.png"
            )
    weights = folder / "resnet10t.safetensors"
    save_file(create_model("resnet10t", 10).module.state_dict(), weights)
    given = InitOptions(folder / "photos", folder / "new.yaml", latency_ms=1000, weights=weights, offline=True)
    context = in_project(given, Context(progress=Said(), workers=0))
    students = {
        name: ChosenStudent(Candidate(model=name, image_size=64, macs=1, expected_ms=1), None, fast_in(2))
        for name in ("lcnet_050", "lcnet_035")
    }
    return look_at_folder(given, context), students, context


def test_with_few_labels_students_learn_from_the_few_shot_teacher_as_in_the_recipe(tmp_path: Path) -> None:
    found, students, context = noise(tmp_path)
    stages = trial_stages(with_images_to_compare_by(found, HELD_BACK), students, rounds_of(2, 1), on_target=True)
    assert [stage.name() for stage in stages.teacher] == ["load", "fewshot"]
    (trial,) = stages.rounds["lcnet_050"]
    (tmp_path / "new.yaml").write_text(recipe_for_student(found, students["lcnet_050"], context).text)
    recipe = load_recipe(tmp_path / "new.yaml")
    student = next(stage for stage in recipe.stages if isinstance(stage, Distill))
    assert isinstance(trial, Distill)
    assert [stream.data for stream in student.streams] == ["photos.pool", "photos.support"]
    assert (trial.streams, trial.objectives) == (student.streams, student.objectives)
    assert recipe.datasets["photos"].splits.val == 0  # the recipe learns from every label
    assert stages.recipe.datasets["photos"].splits.val == HELD_BACK


def test_an_epoch_is_once_through_the_larger_role_with_the_others_share(tmp_path: Path) -> None:
    found, students, context = noise(tmp_path, labelled=5)
    recipe = short_recipe(found, students["lcnet_050"], epochs=1)
    student = next(stage for stage in recipe.stages if isinstance(stage, Distill))
    assert [(stream.data, stream.share) for stream in student.streams] == [
        ("photos.pool", 0.5),
        ("photos.support", 0.5),
    ]
    datasets = datasets_of(recipe, tmp_path, tmp_path / "runs", context)
    assert images_of_epoch(student, datasets) == 24  # twelve images without labels
    alone = student.model_copy(update={"streams": student.streams[1:]})
    assert images_of_epoch(alone, datasets) == 20  # five of each of two classes


def test_images_to_compare_by_that_students_learn_from_are_refused(tmp_path: Path) -> None:
    found, students, context = noise(tmp_path, labelled=6)
    for file in (tmp_path / "photos").glob("[ab]/*.png"):
        shutil.copy(file, file.with_name(f"copy_of_{file.name}"))
    found = look_at_folder(found.options, context)
    trials = TrialOptions(epochs=1, runs=tmp_path / "runs", board="orin-nano-8gb")
    with pytest.raises(DataError, match="also in"):
        _compared(with_images_to_compare_by(found, HELD_BACK), students, trials, context)


@pytest.mark.slow
@pytest.mark.parametrize("labelled", [5, 30])
def test_where_the_labels_show_nothing_the_most_capable_finalist_is_taken(tmp_path: Path, labelled: int) -> None:
    found, students, context = noise(tmp_path, labelled)
    assert found.images.few is (labelled == 5)
    trials = TrialOptions(epochs=1, runs=tmp_path / "runs")
    compared = _compared(with_images_to_compare_by(found, HELD_BACK), students, trials, context)
    assert compared.selection is None
    assert compared.taken == "lcnet_050"
    assert "so the most capable finalist is taken" in compared.lines[0]


def test_a_target_of_the_projects_file_is_found_beside_the_recipe(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos", {"a": 60, "b": 60})
    (tmp_path / "targets.yaml").write_text("bench-board: {host: ssh://nobody@127.0.0.1:1}\n")
    with pytest.raises(ConnectionLost):  # it is known, and nothing answers there
        select(folder, "--latency-ms", 3, "--target", "bench-board")
    with pytest.raises(TargetError, match="no target 'bench'"):
        select(folder, "--latency-ms", 3, "--target", "bench")
    found = found_in(folder)
    found = replace(found, options=replace(found.options, target="bench-board"))
    stages = trial_stages(found, of_the_shortlist(2), rounds_of(2, 1), on_target=True)
    *_, last = recipe_of_finalists(stages, tuple(stages.rounds), found, on_target=True).stages
    assert isinstance(last, Select)
    assert last.target == "bench-board"


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
    noise(tmp_path, 30)  # nothing can be learned
    said = select(tmp_path / "photos", "--latency-ms", 1000, "--students", 2, "--epochs", 1)
    assert "round 1 of 1: 2 students to epoch 1" in said
    assert "so the most capable finalist is taken" in said
    recipe = load_recipe(tmp_path / "new.yaml")
    assert recipe.budget.latency_ms == 1000
    assert "the most capable finalist of 2 by short trainings of up to 1 epoch" in (tmp_path / "new.yaml").read_text()
