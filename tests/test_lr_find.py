"""`edgevit lr-find` on a small recipe."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edgevit import pipeline
from edgevit.cli import app, main
from edgevit.context import Context
from edgevit.recipe import load_recipe

RECIPE = """
name: small
datasets:
  digits: {source: digits, few_shot: {shots: 5, draw: 0}}
stages:
  - stage: train
    id: teacher
    model: deit_tiny_patch16_224
    model_args: &args {patch_size: 8, depth: 1, embed_dim: 48, num_heads: 3}
    image_size: 32
    data: digits.support
    epochs: 1
    batch_size: 25
  - stage: distill
    id: student
    teacher: teacher
    model: deit_tiny_patch16_224
    model_args: *args
    image_size: 32
    streams: [{data: digits.pool, share: 0.8}, {data: digits.support, share: 0.2}]
    objectives: [{loss: soft}]
    teacher_cache: {}
    epochs: 1
    batch_size: 25
  - {stage: fewshot, id: tuned, model: teacher, support: digits.support, pool: digits.pool, method: finetune}
  - {stage: fewshot, id: headed, model: teacher, support: digits.support, pool: digits.pool}
  - {stage: qat, id: rounded, init: teacher, streams: [{data: digits.pool}], calibration: digits.pool}
  - {stage: export, id: onnx, model: student}
"""

EACH = """
name: each
datasets:
  digits: {source: digits, few_shot: {shots: 5, draw: 0}}
stages:
  - for_each: {seed: [0, 1]}
    stages:
      - stage: train
        id: teacher
        model: deit_tiny_patch16_224
        model_args: {patch_size: 8, depth: 1, embed_dim: 48, num_heads: 3}
        image_size: 32
        data: digits.support
        seed: ${seed}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe whose first stage is finished."""
    folder = tmp_path_factory.mktemp("lr-find")
    (folder / "small.yaml").write_text(RECIPE)
    loaded = load_recipe(folder / "small.yaml")
    first = loaded.model_copy(update={"stages": loaded.stages[:1]})
    pipeline.run(first, folder, folder / "runs", Context(workers=0))
    return folder


def arguments(folder: Path, *more: str) -> Sequence[str]:
    return ["lr-find", str(folder / "small.yaml"), *more, "--runs", str(folder / "runs"), "--workers", "0"]


def everything(folder: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_mtime_ns for path in (folder / "runs").rglob("*")}


@pytest.mark.parametrize(
    "stage", ["teacher", *(pytest.param(one, marks=pytest.mark.slow) for one in ("student", "tuned", "rounded"))]
)
def test_every_stage_that_trains_can_be_tested(folder: Path, stage: str) -> None:
    before = everything(folder)
    answer = CliRunner().invoke(app, [*arguments(folder, stage, "--json", "--steps", "20")])
    assert answer.exit_code == 0, answer.output
    found = json.loads(answer.stdout)
    assert found["stage"] == stage
    assert found["learning_rates"][0] == pytest.approx(1e-6)
    assert len(found["learning_rates"]) == len(found["losses"]) == len(found["smoothed"]) <= 20
    assert everything(folder) == before


def test_curve_and_the_setting_to_use_fit_80_columns(folder: Path) -> None:
    setting = "stages.teacher.weight_decay=0.01"
    answer = CliRunner(env={"COLUMNS": "80"}).invoke(app, arguments(folder, "teacher", "--set", setting))
    assert answer.exit_code == 0, answer.output
    lines = answer.stdout.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert "\x1b" not in answer.stdout
    assert sum("smallest" in line for line in lines[1:-2]) == 1
    command = answer.stderr.splitlines()[-1]
    assert command == f"next: edgevit run {folder / 'small.yaml'} --set {setting} {lines[-1]}"
    option, _, change = lines[-1].partition(" ")
    assert option == "--set"
    (teacher, *_) = load_recipe(folder / "small.yaml", [change]).stages
    assert 1e-6 < teacher.learning_rate < 1


def test_a_stage_that_set_does_not_reach_is_to_be_changed_in_the_recipe(folder: Path) -> None:
    (folder / "each.yaml").write_text(EACH)
    answer = CliRunner().invoke(
        app, ["lr-find", str(folder / "each.yaml"), "teacher/1", "--runs", str(folder / "runs")]
    )
    assert answer.exit_code == 0, answer.output
    assert "--set" not in answer.output
    assert f"into {folder / 'each.yaml'}" in answer.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("stage", "says"),
    [
        ("onnx", "expected: one of teacher, student, tuned"),
        ("headed", "only its method finetune has one"),
        ("studnt", "Did you mean 'student'?"),
    ],
)
def test_what_has_no_learning_rate_is_refused(
    folder: Path, stage: str, says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert says in error_of(arguments(folder, stage), capsys, monkeypatch)


def test_a_stage_without_labels_is_refused_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "body.yaml"
    stage = "{stage: pretrain, id: body, model: resnet18, data: digits.train}"
    file.write_text(f"name: body\ndatasets: {{digits: {{source: digits}}}}\nstages: [{stage}]\n")
    error = error_of(["lr-find", str(file), "body"], capsys, monkeypatch)
    assert "its loss does not tell good learning rates from bad ones" in error


def test_what_is_not_finished_is_named_with_the_command_that_makes_it(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = ["--set", "stages.teacher.epochs=2"]
    error = error_of([*arguments(folder, "student"), *changed], capsys, monkeypatch)
    assert error.startswith("error: stage 'teacher': it is not finished, and 'student' needs it")
    assert f"next: edgevit run {folder / 'small.yaml'} --set stages.teacher.epochs=2" in error


def error_of(arguments: Sequence[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sys, "argv", ["edgevit", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    return capsys.readouterr().err
