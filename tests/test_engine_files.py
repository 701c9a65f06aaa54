"""The folder of an engine outside a recipe, engine files without a record, and folders that mean harm."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import edgevit
from edgevit.actions.single_stage import single_stages
from edgevit.artifacts import MANIFEST, Artifact, Json, sha256_of
from edgevit.cli.output import on_target
from edgevit.context import Context
from edgevit.errors import ArtifactError, RecipeError, TargetError
from tests.small_models import int8_onnx_for_tensorrt as int8
from tests.targets.engine_folder import BOARD, engine_folder
from tests.test_files import run


@pytest.fixture
def engine(tmp_path: Path) -> Artifact:
    return engine_folder(int8(), tmp_path / "engine")


def rewrite(folder: Path, **fields: Any) -> None:
    """Change the record, with a hash that is right."""
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["sha256"]
    manifest |= fields
    (folder / MANIFEST).write_text(json.dumps({**manifest, "sha256": sha256_of(manifest)}))


def read(path: Path) -> Artifact:
    with single_stages(Context()) as stages:
        return stages.model(path)


def test_a_folder_is_read_from_any_place(engine: Artifact, tmp_path: Path) -> None:
    shutil.copytree(engine.path, tmp_path / "elsewhere" / "copy")
    found = read(tmp_path / "elsewhere" / "copy")
    assert found.model_file.runtime == "tensorrt"
    assert found.io == int8().io
    assert found.file("model.engine").read_bytes() == b"no engine"


def test_python_loads_saves_and_renames_it(engine: Artifact, tmp_path: Path) -> None:
    model = edgevit.load(engine.path)
    assert (model.kind, model.file.name) == ("engine", "model.engine")
    assert model.classes == int8().io.classes
    saved = model.save(tmp_path / "saved")
    assert {file.name for file in saved.iterdir()} == {
        "manifest.json", "model.engine", "model.onnx", "layers.json", "build.log",
    }  # fmt: skip
    with pytest.raises(ArtifactError, match="already taken"):
        model.save(saved)
    names = [f"digit {digit}" for digit in range(10)]
    renamed = edgevit.load(saved, classes=names)
    assert renamed.classes == tuple(names)
    assert renamed.artifact.digest != model.artifact.digest
    assert edgevit.load(renamed.save(tmp_path / "renamed")).classes == tuple(names)


def test_a_bundle_takes_the_onnx_file_of_the_folder(engine: Artifact, tmp_path: Path) -> None:
    run("bundle", engine.path, "--out", tmp_path / "portable")
    run("bundle", engine.path, "--compiled", "--out", tmp_path / "bound")
    assert not (tmp_path / "portable" / "model.engine").exists()
    assert (tmp_path / "bound" / "model.engine").read_bytes() == b"no engine"
    for bundle in ("portable", "bound"):
        assert (tmp_path / bundle / "model.onnx").read_bytes() == (engine.path / "model.onnx").read_bytes()


def test_predict_names_the_target_that_is_needed(engine: Artifact, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="runs on the machine that built it") as caught:
        run("predict", engine.path, tmp_path / "photo.jpg")
    assert "an engine of orin" in str(caught.value.got)


def test_here_profile_says_what_to_name(engine: Artifact) -> None:
    with pytest.raises(TargetError, match="tensorrt does not run on local-cpu") as caught:
        run("profile", engine.path)
    assert "--target NAME" in str(caught.value.next)


@pytest.mark.parametrize("name", ["model.engine", "resnet50.plan", "resnet50.TRT"])
def test_an_engine_without_a_record_says_what_is_missing(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"ftrt")
    for path in (tmp_path / name, tmp_path):
        for command in ("profile", "inspect"):
            with pytest.raises(ArtifactError, match="how images are prepared") as caught:
                run(command, path)
            assert "--runtime tensorrt --target NAME --out engine/" in str(caught.value.next)
    (tmp_path / MANIFEST).write_text("{}")
    with pytest.raises(ArtifactError, match="with its record") as caught:
        run("profile", tmp_path / name)
    assert str(tmp_path) in str(caught.value.next)


def test_an_altered_engine_is_refused(engine: Artifact) -> None:
    for content in (b"an engine", b"a longer engine"):
        (engine.path / "model.engine").write_bytes(content)
        with pytest.raises(ArtifactError, match="altered after it was made"):
            read(engine.path).file("model.engine")


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "a/../../outside"])
def test_a_file_outside_the_folder_is_refused(name: str, engine: Artifact, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("secret")
    entry = {"sha256": "0" * 64, "size": 6, "content": True}
    rewrite(engine.path, files={**json.loads((engine.path / MANIFEST).read_text())["files"], name: entry})
    with pytest.raises(ArtifactError, match="outside the artifact's folder"):
        read(engine.path)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"files": {"model.engine": {"sha256": "0" * 64, "size": 2**40}}}, "too large"),
        ({"files": {"layers.json": {"sha256": "0" * 64, "size": 1}}}, "names no file of the engine"),
        ({"kind": "latency"}, "not a model"),
        (
            {"model_file": {"name": "model.engine", "options": {"runtime": "tensorrt", "max_batch": []}}},
            "cannot be read",
        ),
    ],
)
def test_a_record_that_cannot_be_right_is_refused(fields: dict[str, Any], says: str, engine: Artifact) -> None:
    rewrite(engine.path, **fields)
    with pytest.raises(ArtifactError, match=says):
        read(engine.path)


@pytest.mark.parametrize(
    ("part", "changes", "says"),
    [
        ("io", {"inputs": []}, "no input or no output"),
        ("io", {"outputs": []}, "no input or no output"),
        ("model_file", {"name": "build.log"}, "names no file of the engine"),  # it would lie beside other files there
        ("model_file", {"bound_to": {**vars(BOARD), "name": "orin; rm -rf /"}}, "no name of a target"),
        ("model_file", {"bound_to": {**vars(BOARD), "name": "-oProxyCommand=x"}}, "no name of a target"),
    ],
)
def test_a_record_that_would_do_harm_is_refused(part: str, changes: Json, says: str, engine: Artifact) -> None:
    manifest = json.loads((engine.path / MANIFEST).read_text())
    rewrite(engine.path, **{part: {**manifest[part], **changes}})
    with pytest.raises(ArtifactError, match=says):
        read(engine.path)


def test_the_next_command_quotes_a_target() -> None:
    assert on_target("orin") == ("--target orin",)
    assert on_target("orin; reboot") == ("--target 'orin; reboot'",)


def test_a_pipe_in_place_of_a_file_is_refused(engine: Artifact) -> None:
    (engine.path / "model.engine").unlink()
    os.mkfifo(engine.path / "model.engine")
    with pytest.raises(ArtifactError, match="altered"):
        read(engine.path).file("model.engine")


def test_a_record_that_is_too_large_is_not_read(engine: Artifact) -> None:
    with (engine.path / MANIFEST).open("r+b") as file:
        file.truncate(2**28)
    with pytest.raises(ArtifactError, match="bytes, more than"):
        read(engine.path)


def test_a_folder_in_the_way_is_refused_before_any_work(engine: Artifact) -> None:
    with pytest.raises(ArtifactError, match="already there"):
        run("compile", "none.onnx", "--runtime", "tensorrt", "--target", "orin", "--out", engine.path)


def test_options_of_tensorrt_are_refused_for_another_runtime(tmp_path: Path) -> None:
    file = int8().file("model.onnx")
    with pytest.raises(RecipeError, match="max_batch: only with runtime: tensorrt"):
        run("compile", file, "--max-batch", 8, "--out", tmp_path / "compiled.onnx")
    with pytest.raises(RecipeError, match="only with --runtime tensorrt"):
        run("compile", file, "--find-difference", "--out", tmp_path / "compiled.onnx")
    with pytest.raises(RecipeError, match="layers of a TensorRT engine"):
        run("inspect", file, "--target", "orin")
