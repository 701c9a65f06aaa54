import json
import shutil
from dataclasses import replace
from pathlib import Path

import onnxruntime
import pytest

from edgevit.artifacts import Artifact, Contents
from edgevit.configs import Bundle, Compile, Export
from edgevit.context import Context
from edgevit.errors import ArtifactError
from edgevit.graphs.files import artifact_from_onnx
from edgevit.stages import bundle, compile
from edgevit.store import Store, ingredients
from tests.bundling.small_model import small_model

CONFIG = Bundle(stage="bundle", id="bundle", model="model")
COMPILED = Bundle(stage="bundle", id="bundle", model="model", compiled=True)
COMPILE = Compile(stage="compile", id="engine", model="model")


def test_a_bundle_is_written_checked_and_published(tmp_path: Path):
    model = small_model(tmp_path / "model")
    made = published(tmp_path, CONFIG, model)
    assert made.kind == "bundle"
    assert made.io == model.io
    assert "bundle.json" in made.manifest.files
    assert not any("__pycache__" in name for name in made.manifest.files)
    assert published(tmp_path, CONFIG, model, again=True).digest == made.digest


def test_a_compiled_model_is_bundled_as_the_file_it_was_compiled_from(tmp_path: Path):
    onnx_model = onnx_in_store(tmp_path)
    engine = published(tmp_path, COMPILE, onnx_model)
    made = published(tmp_path, CONFIG, engine)
    record = json.loads(made.file("bundle.json").read_text())
    assert record["model"]["portable"] is True
    assert record["model"]["id"] == onnx_model.id
    assert (made.path / "model.onnx").read_bytes() == (onnx_model.path / "model.onnx").read_bytes()


def test_a_compiled_model_is_bundled_on_request_and_says_that_it_belongs_to_its_machine(tmp_path: Path):
    engine = published(tmp_path, COMPILE, onnx_in_store(tmp_path))
    made = published(tmp_path, COMPILED, engine)
    record = json.loads(made.file("bundle.json").read_text())
    assert record["model"]["portable"] is False
    assert record["session_options"] == {"graph_optimization_level": "disabled"}
    assert (made.path / "model.onnx").read_bytes() == (engine.path / "model.onnx").read_bytes()
    assert f"onnxruntime=={onnxruntime.__version__}" in made.file("requirements.txt").read_text()


def test_a_compiled_file_of_unknown_origin_is_refused(tmp_path: Path):
    engine = published(tmp_path, COMPILE, onnx_in_store(tmp_path))
    shutil.copy(engine.path / "model.onnx", tmp_path / "compiled.onnx")
    for model in (artifact_from_onnx(tmp_path / "compiled.onnx"), replace(engine, path=tmp_path / "elsewhere")):
        with pytest.raises(ArtifactError, match="its ONNX file is not known") as caught:
            published(tmp_path, CONFIG, model)
        assert "--compiled" in str(caught.value)


def test_an_onnx_file_is_not_bundled_as_compiled(tmp_path: Path):
    with pytest.raises(ArtifactError, match="not compiled"):
        published(tmp_path, COMPILED, onnx_in_store(tmp_path))


def onnx_in_store(folder: Path) -> Artifact:
    """The small model as a stage of a recipe has it."""
    model = small_model(folder / "model")

    def write(out: Path, work: Path) -> Contents:
        shutil.copy(model.path / "model.onnx", out / "model.onnx")
        return Contents("onnx", metrics=model.metrics, io=model.io, model_file=model.model_file)

    config = Export(stage="export", id="onnx", model="model")
    return Store(folder / "store").make(config, {}, {"stage": "export", "config": {}}, write)


def published(folder: Path, config: Bundle | Compile, model: Artifact, again: bool = False) -> Artifact:
    stage = bundle if isinstance(config, Bundle) else compile

    def write(out: Path, work: Path) -> Contents:
        return stage.run(config, {"model": model}, Context(work=work), out)

    parts = ingredients(config, {"model": model}, None, None)
    return Store(folder / "store").make(config, {"model": model}, parts, write, again=again)
