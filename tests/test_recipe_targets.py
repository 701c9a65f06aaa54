"""Targets in recipes: which names are known, and what runs on a machine that is reached over SSH."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgevit.errors import RecipeError
from edgevit.recipe import load_recipe

RECIPE = """\
name: on-a-board
datasets:
  digits: {{source: digits}}
stages:
  - {{stage: load, id: student, model: vit_tiny_patch16_224, num_classes: 10}}
  - {{stage: export, id: onnx, model: student}}
  - {{stage: quantize, id: int8, model: onnx, calibration: digits.train, target: {target}}}
  - {line}
"""
PROFILE = "{stage: profile, id: latency, model: int8, target: board}"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "edgevit").mkdir(parents=True)
    return tmp_path


def recipe(folder: Path, line: str = PROFILE, target: str = "board") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "recipe.yaml").write_text(RECIPE.format(line=line, target=target))
    return folder / "recipe.yaml"


def name_board(file: Path, name: str = "board") -> None:
    file.write_text(f"{name}: {{host: ssh://me@board.local}}\n")


def test_the_users_and_the_projects_names_are_known(home: Path) -> None:
    project = home / "project"
    for file in (home / "home" / "edgevit" / "targets.yaml", project / "targets.yaml"):
        path = recipe(project)
        name_board(file)
        stages = {stage.id: stage for stage in load_recipe(path).stages}
        assert stages["latency"].runs_on() == ("board",)
        assert stages["int8"].runs_on() == ("local-cpu", "board")
        file.unlink()
    with pytest.raises(RecipeError):
        load_recipe(path)


def test_an_unknown_name_gets_the_line_and_the_nearest(home: Path) -> None:
    name_board(home / "home" / "edgevit" / "targets.yaml", "bord")
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe(home / "project", target="local-cpu"))
    assert str(caught.value).startswith(
        f"{home}/project/recipe.yaml:8: there is no target 'board'. Did you mean 'bord'?"
    )
    assert "local-cpu, local-gpu, bord" in str(caught.value)


def test_a_group_is_no_target_of_a_stage(home: Path) -> None:
    path = recipe(home / "project")
    (home / "project" / "targets.yaml").write_text("orin: {host: ssh://orin}\nboard: [orin, local-cpu]\n")
    with pytest.raises(RecipeError, match=r"'board' is a group of targets(.|\n)*a stage for each of orin, local-cpu"):
        load_recipe(path)


def test_without_a_near_name_the_command_is_said(home: Path) -> None:
    with pytest.raises(RecipeError, match="edgevit devices add board ssh://user@host"):
        load_recipe(recipe(home / "project"))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{stage: profile, id: latency, model: student, target: board}", "no checkpoint runs"),
        ("{stage: evaluate, id: top1, model: student, data: digits.test, target: board}", "no checkpoint runs"),
        ("{stage: compile, id: engine, model: onnx, runtime: tensorrt}", "TensorRT does not run on a CPU"),
        (
            "{stage: prune, id: less, model: student, keep_latency: 0.5, score: magnitude, runtime: tensorrt}",
            "TensorRT does not run on a CPU",
        ),
        ("{stage: compile, id: engine, model: onnx, target: local-gpu}", "no compiled file for a GPU"),
        ("{stage: compile, id: engine, model: onnx, max_batch: 8}", "only with runtime: tensorrt"),
        (
            "{stage: compile, id: engine, model: onnx, runtime: tensorrt, target: board, batch_size: 8, max_batch: 4}",
            "max_batch",
        ),
        ("{stage: prune, id: less, model: student, keep_macs: 0.5, data: digits.train, target: board}", "keep_latency"),
        (
            "{stage: quantize, id: q, model: onnx, calibration: digits.train, placement: all, target: board}",
            "placement",
        ),
        ("{stage: profile, id: latency, model: int8, target: board, runtime: openvino}", "run in ONNX Runtime"),
        (
            "{stage: quantize, id: q, model: onnx, calibration: digits.train, runtime: tensorrt, placement: all,"
            " target: board}",
            "nothing else is timed",
        ),
        ("{stage: profile, id: latency, model: int8, target: '../board'}", "the name of a target has"),
        ("{stage: profile, id: latency, model: int8, target: 3}", "valid string"),
    ],
)
def test_what_cannot_run_there_is_said_before_the_run(home: Path, line: str, said: str) -> None:
    path = recipe(home / "project", line)
    name_board(home / "project" / "targets.yaml")
    with pytest.raises(RecipeError, match=said) as caught:
        load_recipe(path)
    assert f"{path}:8" in str(caught.value)


def test_a_model_that_was_compiled_here_does_not_run_there(home: Path) -> None:
    path = recipe(home / "project", "{stage: compile, id: engine, model: onnx}")
    path.write_text(path.read_text() + "  - {stage: profile, id: latency, model: engine, target: board}\n")
    name_board(home / "project" / "targets.yaml")
    with pytest.raises(RecipeError, match="is compiled for this machine"):
        load_recipe(path)
    path.write_text(path.read_text().replace("engine, target: board", "engine, target: local-gpu"))
    with pytest.raises(RecipeError, match="is compiled for this machine's CPU"):
        load_recipe(path)


def test_a_checkpoint_is_pruned_for_the_latency_there(home: Path) -> None:
    line = "{stage: prune, id: less, model: student, keep_latency: 0.7, data: digits.train, target: board}"
    path = recipe(home / "project", line)
    name_board(home / "project" / "targets.yaml")
    assert load_recipe(path).stages[-1].runs_on() == ("board",)


def test_a_recipe_for_this_machine_reads_no_file_of_targets(home: Path) -> None:
    path = recipe(home / "project", "{stage: profile, id: latency, model: int8}", target="local-cpu")
    (home / "project" / "targets.yaml").write_text("not: [valid\n")
    assert load_recipe(path).stages[-1].runs_on() == ("local-cpu",)


ENGINE = """\
{stage: compile, id: engine, model: int8, runtime: tensorrt, target: board}
  - """


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{stage: profile, id: latency, model: engine}", "does not run on 'local-cpu'"),
        ("{stage: evaluate, id: top1, model: engine, data: digits.test, target: local-gpu}", "not run on 'local-gpu'"),
        ("{stage: bundle, id: bundle, model: engine, compiled: true, support: digits.support}", "takes no classes"),
        ("{stage: bundle, id: bundle, model: int8, compiled: true, serve: [deepstream]}", "'int8' is not one"),
    ],
)
def test_an_engine_runs_on_the_target_that_built_it(home: Path, line: str, said: str) -> None:
    path = recipe(home / "project", ENGINE + line)
    name_board(home / "project" / "targets.yaml")
    with pytest.raises(RecipeError, match=said) as caught:
        load_recipe(path)
    assert f"{path}:9" in str(caught.value)
    right = ENGINE + "{stage: profile, id: latency, model: engine, target: board}"
    assert load_recipe(recipe(home / "project", right)).stages


BUNDLE = """\
stage: bundle
    id: bundle
    model: engine
    compiled: true
"""


@pytest.mark.parametrize(
    ("runtime", "option", "line", "said"),
    [
        ("onnxruntime", "", 12, "this machine cannot check its bundle"),
        ("tensorrt", "    support: digits.support\n", 13, "takes no classes"),
        ("onnxruntime", "    serve: [deepstream]\n", 13, "'engine' is not one"),
    ],
)
def test_what_a_bundle_cannot_hold_is_said_at_its_option(
    home: Path, runtime: str, option: str, line: int, said: str
) -> None:
    path = recipe(home / "project", ENGINE.replace("tensorrt", runtime) + BUNDLE + option)
    name_board(home / "project" / "targets.yaml")
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert any(said in text and f"{path}:{line}" in text for text in str(caught.value).split("\n\n"))


def test_an_engine_of_local_gpu_stays_there(home: Path) -> None:
    built = "{stage: compile, id: engine, model: int8, runtime: tensorrt, target: local-gpu}\n  - "
    name_board(home / "home" / "edgevit" / "targets.yaml")  # of the stages before it
    line = "{stage: profile, id: latency, model: engine, target: local-gpu}"
    assert load_recipe(recipe(home / "project", built + line)).stages[-1].runs_on() == ("local-gpu",)
    with pytest.raises(RecipeError, match="is compiled on 'local-gpu', and does not run on 'local-cpu'"):
        load_recipe(recipe(home / "project", built + line.replace("local-gpu", "local-cpu")))


@pytest.mark.parametrize("runtime", ["onnxruntime", "tensorrt"])
def test_a_model_is_compiled_on_the_target_and_stays_there(home: Path, runtime: str) -> None:
    line = ENGINE.replace("tensorrt", runtime) + "{stage: profile, id: latency, model: engine"
    path = recipe(home / "project", f"{line}, target: board}}")
    name_board(home / "project" / "targets.yaml")
    assert load_recipe(path).stages[-2].runs_on() == ("board",)
    with pytest.raises(RecipeError, match="is compiled on 'board', and does not run on 'local-cpu'"):
        load_recipe(recipe(home / "project", f"{line}}}"))


@pytest.mark.parametrize("target", ["board", "local-gpu"])
def test_forms_for_tensorrt_are_timed_on_a_gpu_alone(home: Path, target: str) -> None:
    line = "{stage: quantize, id: q, model: onnx, calibration: digits.train, runtime: tensorrt"
    path = recipe(home / "project", f"{line}, target: {target}}}")
    name_board(home / "project" / "targets.yaml")
    there = load_recipe(path).stages[-1]
    assert (there.is_timed, there.runs_on()) == (True, ("local-cpu", target))
    here = load_recipe(recipe(home / "project", f"{line}}}")).stages[-1]
    assert (here.is_timed, here.runs_on()) == (False, ("local-cpu",))


@pytest.mark.parametrize(
    ("line", "on_cpu", "on_board"),
    [
        ("{stage: quantize, id: s, model: onnx, calibration: digits.train}", "onnxruntime", "onnxruntime"),
        (
            "{stage: quantize, id: s, model: onnx, calibration: digits.train, runtime: tensorrt, target: board}",
            "onnxruntime",
            "tensorrt",
        ),
        ("{stage: quantize, id: s, model: onnx, calibration: digits.train, runtime: openvino}", "openvino", "openvino"),
        ("{stage: prune, id: s, model: student, keep_latency: 0.7, data: digits.train}", "onnxruntime", "onnxruntime"),
        ("{stage: compile, id: s, model: int8, runtime: tensorrt, target: board}", "tensorrt", "tensorrt"),
        ("{stage: profile, id: s, model: int8}", None, None),
        ("{stage: profile, id: s, model: int8, runtime: onnxruntime}", "onnxruntime", "onnxruntime"),
        ("{stage: evaluate, id: s, model: int8, data: digits.test, target: board}", None, None),
    ],
)
def test_the_runtime_of_a_stage_on_a_target(home: Path, line: str, on_cpu: str | None, on_board: str | None) -> None:
    path = recipe(home / "project", line)
    name_board(home / "project" / "targets.yaml")
    stage = load_recipe(path).stages[-1]
    assert (stage.runtime_on("local-cpu"), stage.runtime_on("board")) == (on_cpu, on_board)


def test_a_checkpoint_is_pruned_for_a_target_of_tensorrt_by_engines(home: Path) -> None:
    line = "{stage: prune, id: less, model: student, keep_latency: 0.7, data: digits.train, target: board}"
    path = recipe(home / "project", line)
    (home / "project" / "targets.yaml").write_text("board: {host: ssh://me@board.local, runtime: tensorrt}\n")
    with pytest.raises(RecipeError, match="would time models in ONNX Runtime, and 'board' is meant for Ten") as caught:
        load_recipe(path)
    assert str(caught.value.expected).startswith("runtime: tensorrt")
    assert f"{path}:8" in str(caught.value)
    path.write_text(path.read_text().replace("target: board}", "runtime: tensorrt, target: board}"))
    assert load_recipe(path).stages[-1].runtime_on("board") == "tensorrt"


@pytest.mark.parametrize("option", ["normalize", "embedding"])
def test_deepstream_takes_neither_uint8_images_nor_an_embedding(home: Path, option: str) -> None:
    line = ENGINE + "{stage: bundle, id: bundle, model: engine, compiled: true, serve: [deepstream]}"
    path = recipe(home / "project", line)
    name_board(home / "project" / "targets.yaml")
    assert load_recipe(path).stages
    path.write_text(path.read_text().replace("model: student}", f"model: student, {option}: true}}"))
    with pytest.raises(RecipeError, match=f"with {option}: true") as caught:
        load_recipe(path)
    assert str(caught.value.expected) == f"{option}: false in 'onnx'"
    assert f"{path}:9" in str(caught.value)
