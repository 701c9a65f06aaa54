import json
from pathlib import Path

from edgevit.artifacts import Artifact, Contents
from edgevit.configs import Bundle, Compile
from edgevit.context import Context
from edgevit.stages import bundle, compile
from edgevit.store import Store, ingredients
from tests.bundling.small_model import small_model

CONFIG = Bundle(stage="bundle", id="bundle", model="model")


def test_a_bundle_is_written_checked_and_published(tmp_path: Path):
    model = small_model(tmp_path / "model")
    made = published(tmp_path, CONFIG, model)
    assert made.kind == "bundle"
    assert made.io == model.io
    assert "bundle.json" in made.manifest.files
    assert not any("__pycache__" in name for name in made.manifest.files)
    assert published(tmp_path, CONFIG, model, again=True).digest == made.digest


def test_a_compiled_model_says_that_it_belongs_to_its_machine(tmp_path: Path):
    engine = published(tmp_path, Compile(stage="compile", id="engine", model="model"), small_model(tmp_path / "model"))
    made = published(tmp_path, CONFIG, engine)
    record = json.loads(made.file("bundle.json").read_text())
    assert record["model"]["portable"] is False
    assert record["session_options"] == engine.manifest.session_options
    assert (made.path / "model.onnx").read_bytes() == (engine.path / "model.onnx").read_bytes()


def published(folder: Path, config: Bundle | Compile, model: Artifact, again: bool = False) -> Artifact:
    stage = bundle if isinstance(config, Bundle) else compile

    def write(out: Path, work: Path) -> Contents:
        return stage.run(config, {"model": model}, Context(work=work), out)

    parts = ingredients(config, {"model": model}, None, None)
    return Store(folder / "store").make(config, {"model": model}, parts, write, again=again)
