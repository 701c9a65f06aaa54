"""Recipes that come with edgevit: they run by name, in any folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edgevit.cli import app, main
from edgevit.configs import Bundle, Compile, Evaluate, Profile, Quantize, kinds_of
from edgevit.errors import RecipeError
from edgevit.recipe import load_recipe
from edgevit.recipes import FOLDER, find_recipe, shipped_recipe, shipped_recipes
from tests.named_board import name_a_board

NAMES = [
    *("cifar10-10way-5shot", "jetson", "methods", "photos", "pretrain", "pretrain-methods", "pretrain-vit"),
    *("quickstart", "students"),
]
FOR_READERS = Path(__file__).parents[1] / "recipes"


@pytest.fixture(autouse=True)
def board(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    name_a_board(tmp_path_factory.mktemp("home"), monkeypatch)


def error_of(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["edgevit", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_the_recipes_of_the_repository_are_copies_of_those_in_the_package() -> None:
    assert list(shipped_recipes()) == NAMES
    copies = {file.stem: file.read_bytes() for file in FOR_READERS.iterdir()}
    assert copies == {name: file.read_bytes() for name, file in shipped_recipes().items()}, (
        "change the recipe in edgevit/recipes/, then: cp edgevit/recipes/*.yaml recipes/"
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_says_how_it_is_run_by_name(name: str) -> None:
    assert f"\n#   edgevit run {name}" in shipped_recipe(name).read_text(encoding="utf-8")
    assert load_recipe(Path(name)).name == name


@pytest.mark.parametrize("name", [name for name in NAMES if "methods" not in name])  # which ship nothing
def test_the_file_that_a_recipe_ships_is_measured_and_judged(name: str) -> None:
    recipe = load_recipe(Path(name))
    (shipped,) = (stage.model for stage in recipe.stages if isinstance(stage, Bundle))
    assert [stage.model for stage in recipe.stages if isinstance(stage, Profile)][-1] == shipped
    assert shipped in {stage.model for stage in recipe.stages if isinstance(stage, Evaluate)}
    kinds = kinds_of(recipe.stages)
    measured = {stage.model for stage in recipe.stages if isinstance(stage, Profile | Evaluate)}
    # `bundle` ships the ONNX file of a compiled model, so that is measured, too.
    sources = {stage.id: stage.model for stage in recipe.stages if isinstance(stage, Compile)}
    assert {sources.get(model, model) for model in measured} <= measured
    assert {kinds[model] for model in measured - sources.keys()} <= {"onnx", "checkpoint"}


def test_a_name_is_a_shipped_recipe_unless_there_is_a_file_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "methods").mkdir()
    assert find_recipe(Path("methods")) == (FOLDER / "methods.yaml", Path())
    own = Path("sub") / "quickstart"
    own.parent.mkdir()
    for file in (Path("quickstart"), own):
        file.write_text("name: own\ndatasets: {}\nstages: [{stage: load, id: model, model: resnet18}]\n")
        assert find_recipe(file) == (file, file.parent)
    assert load_recipe(Path("quickstart")).name == "own"


@pytest.mark.parametrize(
    ("given", "hint"),
    [("quikstart", "'quickstart'"), ("recipes/photos.yaml", "'photos'"), ("method", "'methods'"), ("zzz", None)],
)
def test_a_wrong_name_is_answered_with_the_names_there_are(
    given: str, hint: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match="there is no such recipe") as refused:
        load_recipe(Path(given))
    said = str(refused.value)
    assert ", ".join(NAMES) in said
    assert f"Did you mean {hint}?" in said if hint else "Did you mean" not in said


@pytest.mark.parametrize(
    "command", [["run", "photos", "--dry-run"], ["why", "photos"], ["lr-find", "photos", "student"]]
)
def test_relative_paths_of_a_shipped_recipe_start_from_the_working_directory(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert str(tmp_path / "photos") in error_of(capsys, monkeypatch, *command)


@pytest.mark.parametrize("command", ["run", "why", "lr-find", "init"])
def test_help_lists_the_shipped_recipes(command: str) -> None:
    answer = CliRunner(env={"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"}).invoke(app, [command, "--help"])
    assert ", ".join(NAMES) in answer.stdout


def test_init_copies_a_shipped_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    answer = CliRunner().invoke(app, ["init", "--recipe", "photos", "--out", "mine.yaml"])
    assert answer.exit_code == 0, answer.output
    assert (tmp_path / "mine.yaml").read_bytes() == shipped_recipe("photos").read_bytes()
    assert "next: edgevit run mine.yaml" in answer.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--recipe", "photo"], "Did you mean 'photos'?"),
        (["--recipe", "photos", "."], "a folder of images or --recipe NAME"),
        ([], "a folder of images or --recipe NAME"),
    ],
)
def test_init_takes_a_folder_or_a_name(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said in error_of(capsys, monkeypatch, "init", *arguments)
    assert not list(tmp_path.iterdir())


def test_report_takes_the_name_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "next: edgevit run quickstart" in error_of(capsys, monkeypatch, "report", "quickstart")
    (tmp_path / "runs" / "own").mkdir(parents=True)
    assert str(Path("runs") / "own") in error_of(capsys, monkeypatch, "report", "own")


JETSON = (FOLDER / "jetson.yaml").read_text(encoding="utf-8")


def test_three_settings_take_the_jetson_recipe_to_another_runtime() -> None:
    """The settings are those that the recipe names."""
    (line,) = (line for line in JETSON.splitlines() if "runtime=onnxruntime" in line)
    settings = [word for word in line.split() if "=" in word]
    assert len(settings) == 3
    for given, runtime in (([], "tensorrt"), (settings, "onnxruntime")):
        stages = {stage.id: stage for stage in load_recipe(Path("jetson"), given).stages}
        int8, engine = stages["int8"], stages["engine"]
        assert isinstance(int8, Quantize)
        assert isinstance(engine, Compile)
        assert (int8.runtime, engine.runtime, int8.is_timed) == (runtime, runtime, True)
        assert [stage.target for stage in stages.values() if getattr(stage, "target", "local-cpu") != "local-cpu"] == [
            "board"
        ] * 4


def test_the_jetson_recipe_says_how_a_board_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with pytest.raises(RecipeError, match=r"there is no target 'board'\. edgevit devices add board ssh://user@host"):
        load_recipe(Path("jetson"))


@pytest.mark.slow
def test_pretrain_vit_shows_where_teacher_and_student_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shorter = [f"--set=stages.{id}.epochs=1" for id in ("body", "teacher", "student")]
    answer = CliRunner().invoke(app, ["run", "pretrain-vit", "--anyway", *shorter])
    assert answer.exit_code in (0, 1), answer.output  # after one epoch, the budget may be missed
    folder = tmp_path / "runs" / "pretrain-vit" / "report"
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    (attention,) = report["attention"]
    assert [model["id"] for model in attention["models"]] == ["teacher", "student"]
    assert [len(model["layers"]) for model in attention["models"]] == [4, 2]
    (features,) = report["features"]
    assert {model["id"] for model in features["models"]} == {"untrained", "body", "teacher", "student"}
    page = (folder / "report.html").read_text(encoding="utf-8")
    for model in ("teacher", "student"):
        assert f'alt="mean attention of {model} on image ' in page
