"""select: one of several real models, as it is, and the reasons; what later stages and the report make of it."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from edgevit.artifacts import Artifact, ancestors
from edgevit.configs import Budget, Select
from edgevit.context import Context
from edgevit.errors import CheckFailed, Diverged, RecipeError
from edgevit.evaluation.record import correct_predictions
from edgevit.pipeline import run
from edgevit.progress import progress_for
from edgevit.provenance import WEIGHTS_FROM, data_behind
from edgevit.recipe import load_recipe
from edgevit.report.build import write_report
from tests.small_models import VIT, workbench

LEARNED: dict[str, Any] = {
    "data": "digits.support",
    "batch_size": 10,
    "learning_rate": 1e-3,
    "augmentation": {"horizontal_flip": 0, "scale": (0.8, 1.0)},
}
SHORT: dict[str, Any] = {"duration_s": 0.1, "data": "digits.test"}  # a recipe is refused that selects on test images


@cache
def trained() -> Artifact:
    """Five labels a class, learned by heart: far better than chance on other digits."""
    model = workbench().run("train", "select-trained", **VIT, **LEARNED, epochs=60)
    return workbench().run("export", "select-trained-onnx", model=model.id)


@cache
def untrained() -> Artifact:
    model = workbench().run("load", "select-untrained", classes_of="digits.test", **VIT)
    return workbench().run("export", "select-untrained-onnx", model=model.id)


def test_the_trained_model_is_taken_as_it_is_and_later_stages_take_it(tmp_path: Path) -> None:
    said, bench = io.StringIO(), workbench()
    models = (untrained().id, trained().id)
    selected = bench.run("select", "best", Context(progress=progress_for(said)), models=models, **SHORT)
    assert selected.kind == "onnx"
    assert selected.content_sha256 == trained().content_sha256
    assert (selected.io, selected.model_file) == (trained().io, trained().model_file)
    assert selected.manifest.provenance[WEIGHTS_FROM] == trained().manifest.provenance[WEIGHTS_FROM]
    assert selected.metrics["selected"] == trained().id
    record = selected.metrics["selection"]
    loser, winner = record["models"]
    assert (winner["id"], winner["reason"]) == (trained().id, "the only model within the limits")
    assert "always answering" in loser["reason"]
    assert f"{trained().id}: top-1 " in said.getvalue()
    assert "selected: the only model" in said.getvalue()
    # The same answers as an evaluation of the same images gives.
    evaluated = bench.run("evaluate", "select-accuracy", model=trained().id, data="digits.test")
    assert winner["top1"]["value"] == pytest.approx(np.mean(correct_predictions(evaluated)))
    # What the losers learned from is not behind the result.
    assert untrained().digest not in {ancestor.digest for ancestor in ancestors(selected)}
    assert data_behind(selected) == data_behind(trained())
    small = bench.run("quantize", "select-int8", model="best", calibration="digits.pool", calibration_images=32)
    accuracy = bench.run("evaluate", "select-accuracy-int8", model=small.id, data="digits.test")
    report = write_report([accuracy], Budget(), "selection", tmp_path)
    (selection,) = report["selections"]
    assert (selection["id"], selection["winner"]) == ("best", trained().id)
    assert report["deployed"] == small.id
    assert any(line.startswith(f"{small.id}: 'best' chose the model by its accuracy") for line in report["cautions"])
    text = (tmp_path / "report.md").read_text()
    assert "## Selection" in text
    assert max(map(len, text.splitlines())) <= 80
    assert "the only model within the limits" in (tmp_path / "report.html").read_text()


def test_a_budget_that_no_model_meets_ends_the_run_and_says_which_could_be() -> None:
    models = (untrained().id, trained().id)
    with pytest.raises(CheckFailed, match="no model meets the budget") as caught:
        workbench().run("select", "none", models=models, size_mib=0.01, latency_ms=1000, **SHORT)
    assert str(caught.value.next).startswith(f"{trained().id} meets size_mib: 0.")


def test_a_model_that_gives_no_numbers_drops_out(tmp_path: Path) -> None:
    broken = broken_copy(trained(), tmp_path)
    bench = workbench()
    bench.made["not-finite"] = broken
    selected = bench.run("select", "without-broken", models=("not-finite", trained().id), **SHORT)
    (dropped,) = selected.metrics["selection"]["dropped"]
    assert dropped["id"] == broken.id
    assert "finite" in dropped["reason"]
    assert selected.metrics["selected"] == trained().id


def broken_copy(model: Artifact, folder: Path) -> Artifact:
    """The model with a bias that is not a number."""
    import onnx
    from onnx import numpy_helper

    from tests.small_models import artifact_of

    graph = onnx.load(model.file("model.onnx"))
    bias = next(one for one in graph.graph.initializer if list(one.dims) == [10])
    bias.CopyFrom(numpy_helper.from_array(np.full(10, np.nan, np.float32), bias.name))
    onnx.save(graph, folder / "model.onnx")
    return artifact_of(folder / "model.onnx", model, id="broken", digest="0" * 40)


RECIPE = """
name: choice
budget: {latency_ms: 7, size_mib: 3}
datasets:
  glyphs: {source: glyphs, samples_per_class: 10}
  digits: {source: digits, few_shot: {shots: 5}}
stages:
  - for_each: {width: [48, 96]}
    stages:
      - {stage: load, id: body, model: deit_tiny_patch16_224, model_args: {embed_dim: "${width}"}, classes_of: glyphs}
      - {stage: export, id: onnx, model: body}
  - {stage: select, id: best, MORE}
  - {stage: quantize, id: int8, model: best, calibration: glyphs.train}
  - {stage: bundle, id: bundle, model: int8}
"""


def recipe_with(folder: Path, more: str) -> Path:
    file = folder / "choice.yaml"
    file.write_text(RECIPE.replace("MORE", more))
    return file


DIVERGING = """
name: diverging
datasets:
  digits: {source: digits, few_shot: {shots: 5}}
stages:
  - &good
    stage: train
    id: good
    model: deit_tiny_patch16_224
    model_args: {patch_size: 8, depth: 2, embed_dim: 48, num_heads: 3}
    image_size: 32
    data: digits.support
    epochs: 60
    batch_size: 10
    learning_rate: 1e-3
    augmentation: {horizontal_flip: 0, scale: [0.8, 1.0]}
  # Each step multiplies all weights by a thousand million: they soon are no numbers.
  - {<<: *good, id: wild, optimizer: sgd, learning_rate: 1000, weight_decay: 1e6, warmup_fraction: 0}
  - {stage: export, id: onnx/good, model: good}
  - {stage: export, id: onnx/wild, model: wild}
  - {stage: select, id: best, models: ['onnx/*'], data: digits.support, duration_s: 0.1}
"""


def test_a_model_whose_training_diverges_drops_out(tmp_path: Path) -> None:
    file, said = tmp_path / "diverging.yaml", io.StringIO()
    file.write_text(DIVERGING)
    made = run(load_recipe(file), tmp_path, tmp_path / "runs", Context(progress=progress_for(said)))
    assert made["best"].metrics["selected"] == "onnx/good"
    assert {"wild", "onnx/wild"}.isdisjoint(made)
    assert "training diverged" in said.getvalue()
    assert "'wild' drops out of the selection" in said.getvalue()
    assert "'good' learned from digits.support" in said.getvalue()


def test_a_training_that_diverges_ends_a_run_that_needs_it(tmp_path: Path) -> None:
    file = tmp_path / "diverging.yaml"
    needed = "  - {stage: evaluate, id: accuracy, model: onnx/wild, data: digits.test}\n"
    file.write_text(DIVERGING.replace("epochs: 60", "epochs: 1") + needed)
    with pytest.raises(Diverged):
        run(load_recipe(file), tmp_path, tmp_path / "runs", Context())


def test_a_pattern_names_the_models_and_the_budget_gives_the_limits(tmp_path: Path) -> None:
    recipe = load_recipe(recipe_with(tmp_path, "models: ['onnx/*'], data: glyphs.val, latency_ms: 2"))
    (select,) = (stage for stage in recipe.stages if isinstance(stage, Select))
    assert select.models == ("onnx/48", "onnx/96")
    assert (select.latency_ms, select.size_mib) == (2, 3)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("models: ['onnx/*'], data: digits.test", "only evaluate may read test images"),
        ("models: ['onnx/*'], data: digits.pool", "'digits.pool' has no labels, by which select compares models"),
        ("models: [onnx/48], data: glyphs.val", "there is nothing to select from one model"),
        ("models: [onnx/48, body/96], data: glyphs.val", "select takes models of one kind"),
        ("models: ['body/*'], data: glyphs.val", "'best' makes a checkpoint"),
        ("models: ['onyx/*'], data: glyphs.val", r"there is no stage 'onyx/\*'"),
        ("models: ['onnx/*'], data: glyphs.val, target: nano", "there is no target 'nano'"),
    ],
)
def test_wrong_references_are_refused_before_anything_runs(tmp_path: Path, more: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(recipe_with(tmp_path, more))


def test_at_least_one_model_is_named() -> None:
    with pytest.raises(ValidationError, match="at least 1 item"):
        Select.model_validate({"stage": "select", "id": "s", "models": [], "data": "d"})
