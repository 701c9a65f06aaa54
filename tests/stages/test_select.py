"""select: one of several real models, as it is, and the reasons; what later stages and the report make of it."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

import edgevit
from edgevit.actions.early_page import _runtimes_of_model
from edgevit.artifacts import Artifact, ancestors, before_selection
from edgevit.bundling.portable_model import model_to_bundle
from edgevit.cli import app
from edgevit.configs import Budget, Select
from edgevit.context import Context
from edgevit.errors import ArtifactError, CheckFailed, Diverged, RecipeError
from edgevit.evaluation.record import correct_predictions
from edgevit.pipeline import run
from edgevit.progress import SilentProgress, progress_for
from edgevit.provenance import WEIGHTS_FROM, data_behind
from edgevit.recipe import load_recipe
from edgevit.report.build import write_report
from tests.small_models import VIT, artifact_of, workbench

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
    workbench().run("train", "select-trained", **VIT, **LEARNED, epochs=60)
    return workbench().run("export", "select-trained-onnx", model="select-trained")


@cache
def untrained() -> Artifact:
    workbench().run("load", "select-untrained", classes_of="digits.test", **VIT)
    return workbench().run("export", "select-untrained-onnx", model="select-untrained")


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
    assert dropped["id"] == "not-finite"
    assert "finite" in dropped["reason"]
    assert selected.metrics["selected"] == trained().id


def test_an_altered_file_ends_the_selection_and_does_not_drop_out(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(trained().file("model.onnx").read_bytes())
    bench = workbench()
    bench.made["altered"] = artifact_of(file, trained(), id="altered", digest="1" * 40)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ArtifactError, match="the file was altered after it was made"):
        bench.run("select", "with-altered", models=("altered", trained().id), **SHORT)


def test_models_have_the_names_of_the_recipe_whatever_stage_made_them_first() -> None:
    """The store keeps the id of the stage that made a model first: here both have one id. Then a stage is renamed."""
    bench = workbench()
    small, large = (with_id(model, "onnx/small") for model in (untrained(), trained()))
    bench.made |= {"onnx/small": small, "onnx/large": large, "onnx/renamed": large}
    first = bench.run("select", "equal-ids", models=("onnx/small", "onnx/large"), **SHORT)
    rows = {row["id"]: row["reason"] for row in first.metrics["selection"]["models"]}
    assert rows["onnx/large"] == "the only model within the limits"
    assert "always answering" in rows["onnx/small"]
    assert first.metrics["selected"] == first.metrics["selection"]["winner"] == "onnx/large"
    again = bench.run("select", "renamed", models=("onnx/small", "onnx/renamed"), **SHORT)
    assert again.metrics["selected"] == "onnx/renamed"
    assert again.digest == first.digest  # the content is that of the winner: later stages are not made again


def test_the_digest_follows_the_content_of_the_winner_alone() -> None:
    """Times and trials that a stage records vary between machines."""
    bench = workbench()
    metrics = {**trained().metrics, "seconds_of_forms": [1, 2]}
    bench.made["timed-anew"] = replace(
        trained(), manifest=trained().manifest.model_copy(update={"metrics": metrics, "key": "2" * 40})
    )
    one = bench.run("select", "of-one", models=(untrained().id, trained().id), **SHORT)
    other = bench.run("select", "of-other", models=("timed-anew", untrained().id), **SHORT)
    assert other.metrics["seconds_of_forms"] == [1, 2]
    assert other.digest == one.digest != trained().digest


def with_id(model: Artifact, id: str) -> Artifact:
    return replace(model, manifest=model.manifest.model_copy(update={"id": id}))


def test_a_bundle_of_a_selected_compiled_model_holds_the_portable_file() -> None:
    bench = workbench()
    source, other = (
        bench.run("compile", f"select-compiled-{place}", model=model.id)
        for place, model in enumerate((trained(), untrained()))
    )
    best = bench.run("select", "best-compiled", models=(other.id, source.id), **SHORT)
    twice = bench.run("select", "best-of-best", models=(other.id, best.id), **SHORT)
    for model in (best, twice):
        assert model_to_bundle(model, False, SilentProgress()).model.digest == trained().digest
        assert model_to_bundle(model, True, SilentProgress()).model is model
        assert before_selection(model).digest == source.digest


def broken_copy(model: Artifact, folder: Path) -> Artifact:
    """The model with a bias that is not a number."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(model.file("model.onnx"))
    bias = next(one for one in graph.graph.initializer if list(one.dims) == [10])
    bias.CopyFrom(numpy_helper.from_array(np.full(10, np.nan, np.float32), bias.name))
    onnx.save(graph, folder / "model.onnx")
    return artifact_of(folder / "model.onnx", model, id="broken", digest="0" * 40)


RECIPE = """
name: choice
budget: {latency_ms: 7, size_mib: 3, top1_drop: 0.02}
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
  - {stage: evaluate, id: accuracy, model: best, data: digits.test}
  - {stage: report, id: report, of: [accuracy]}
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
    text = " ".join(made["report"].file("report.md").read_text().split())
    assert "'best' took onnx/good, one of 2 models" in text
    assert "onnx/wild dropped out: training diverged" in text
    assert "in 'wild'" in text
    assert "'good' learned from digits.support" in text
    again = io.StringIO()
    assert (
        run(load_recipe(file), tmp_path, tmp_path / "runs", Context(progress=progress_for(again))).keys() == made.keys()
    )
    assert "(train)" not in again.getvalue()  # neither training runs again
    assert "(select)" not in again.getvalue()
    assert "'wild' drops out of the selection" in again.getvalue()
    run(load_recipe(file), tmp_path, tmp_path / "runs", Context(progress=progress_for(again)), fresh=["wild"])
    assert "wild (train)" in again.getvalue()


def test_a_run_with_a_lost_model_ends_well_and_says_which_stages_dropped_out(tmp_path: Path) -> None:
    file, runs = tmp_path / "diverging.yaml", tmp_path / "runs"
    file.write_text(DIVERGING)
    command = ["run", str(file), "--runs", str(runs)]
    answer = CliRunner().invoke(app, [*command, "--json"], catch_exceptions=False)
    assert answer.exit_code == 0
    printed = json.loads(answer.stdout)
    assert printed["dropped"] == ["wild", "onnx/wild"]
    assert list(printed["stages"]) == ["good", "onnx/good", "best", "accuracy", "report"]
    said = CliRunner().invoke(app, command, catch_exceptions=False).output
    assert "dropped out, since a training diverged: wild, onnx/wild" in said
    assert "nothing to do" not in said
    listed = CliRunner().invoke(app, ["why", *command[1:]], catch_exceptions=False).output
    assert "wild (train): will not run\n    its training diverged in an earlier run; --fresh wild" in listed
    assert "onnx/wild (export): will not run\n    it drops out: training diverged" in listed
    assert listed.endswith("7 stages, none to run\n")
    made = edgevit.run(file, runs=runs)
    assert made.dropped == ("wild", "onnx/wild")
    assert "best" in made
    with pytest.raises(KeyError, match="stage 'wild' has no result: a training diverged"):
        made["wild"]


@pytest.mark.parametrize(
    "needed",
    [
        "  - {stage: evaluate, id: other, model: onnx/wild, data: digits.test}\n",
        "  - {stage: quantize, id: product, model: onnx/wild, calibration: digits.support}\n",  # read by nothing
    ],
)
def test_a_training_that_diverges_ends_a_run_that_needs_it(tmp_path: Path, needed: str) -> None:
    file = tmp_path / "diverging.yaml"
    file.write_text(DIVERGING.replace("epochs: 60", "epochs: 1") + needed)
    with pytest.raises(Diverged):
        run(load_recipe(file), tmp_path, tmp_path / "runs", Context())


def test_a_pattern_names_the_models_and_the_budget_gives_the_limits(tmp_path: Path) -> None:
    recipe = load_recipe(recipe_with(tmp_path, "models: ['onnx/*'], data: glyphs.val, latency_ms: 2"))
    (select,) = (stage for stage in recipe.stages if isinstance(stage, Select))
    assert select.models == ("onnx/48", "onnx/96")
    assert (select.latency_ms, select.size_mib) == (2, None)  # the budget is that of the INT8 file
    shipped = "models: ['onnx/*'], data: glyphs.val}\n  - {stage: bundle, id: float, model: best"
    file = recipe_with(tmp_path, shipped)
    file.write_text(file.read_text().replace("id: int8, model: best", "id: int8, model: onnx/48"))
    (select,) = (stage for stage in load_recipe(file).stages if isinstance(stage, Select))
    assert (select.latency_ms, select.size_mib, select.max_top1_drop) == (7, 3, 0.02)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("models: ['onnx/*'], data: digits.test", "only evaluate and attention may read test images"),
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


def test_more_models_than_a_race_can_tell_apart_are_refused(tmp_path: Path) -> None:
    file = recipe_with(tmp_path, "models: ['onnx/*'], data: glyphs.val")
    file.write_text(file.read_text().replace("[48, 96]", str(list(range(48, 48 + 101)))))
    with pytest.raises(RecipeError, match="101 models are too many"):
        load_recipe(file)


def test_the_checks_before_a_run_look_at_all_models_of_a_selection(tmp_path: Path) -> None:
    bundle = "}\n  - {stage: bundle, id: taught, model: best, support: glyphs.val"
    with pytest.raises(RecipeError, match="a bundle that takes classes needs a model with an embedding"):
        load_recipe(recipe_with(tmp_path, f"models: ['onnx/*'], data: glyphs.val{bundle}"))
    recipe = load_recipe(recipe_with(tmp_path, "models: ['onnx/*'], data: glyphs.val"))
    stages = {stage.id: stage for stage in recipe.stages}
    runtimes = [("onnx/48", "onnxruntime"), ("onnx/96", "onnxruntime")]
    assert list(_runtimes_of_model("best", stages)) == runtimes


def test_at_least_one_model_is_named() -> None:
    with pytest.raises(ValidationError, match="at least 1 item"):
        Select.model_validate({"stage": "select", "id": "s", "models": [], "data": "d"})
