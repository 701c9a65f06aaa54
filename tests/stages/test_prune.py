"""prune: a checkpoint becomes a smaller one, which trains, exports, quantizes and answers like any other."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from edgevit.artifacts import Artifact
from edgevit.compression import latency_search as latency
from edgevit.compression.pruning import Importance, plan_removal, prunable, pruned_model
from edgevit.configs import Prune
from edgevit.context import Context
from edgevit.data import open_dataset
from edgevit.errors import RecipeError, TargetError
from edgevit.inference.over_dataset import outputs_of
from edgevit.models import model_from_checkpoint, open_checkpoint
from edgevit.models.cost import cost_of
from edgevit.models.structures import structures_of
from edgevit.pipeline import ingredients_of
from edgevit.profiling import Comparison, MeasurePlan, comparisons_of_turns, loop
from edgevit.progress import SilentProgress, progress_for
from edgevit.runtimes.base import SessionOptions, random_images
from edgevit.runtimes.onnxruntime.session import OnnxruntimeSession
from edgevit.targets import base as targets
from edgevit.targets import compare_speed, target_for, target_info
from edgevit.targets.local import LocalCpu
from tests.small_models import VIT, workbench

CPU = torch.device("cpu")
ALL = ("heads", "hidden", "blocks")
GENTLE: dict[str, Any] = {"horizontal_flip": 0, "scale": (0.8, 1.0)}
SHORT: dict[str, Any] = {"epochs": 2, "batch_size": 50, "learning_rate": 1e-3}


@cache
def trained() -> Artifact:
    """A ViT that has learned something: 50 digits by heart, and most of the others."""
    fields = {**VIT, "model_args": {**VIT["model_args"], "depth": 4}, "data": "digits.support"}
    return workbench().run(
        "train", "to-prune", **fields, epochs=60, batch_size=10, learning_rate=1e-3, augmentation=GENTLE
    )


@cache
def pruned(name: str = "pruned", **fields: Any) -> Artifact:
    return workbench().run(
        "prune", name, model=trained().id, **(fields or {"keep_macs": 0.6, "data": "digits.support"})
    )


def same_weights(one: Artifact, other: Artifact) -> bool:
    return one.manifest.files["model.safetensors"].sha256 == other.manifest.files["model.safetensors"].sha256


@pytest.mark.parametrize(
    "fields",
    [
        {"keep_macs": 0.6, "data": "digits.support"},
        {"keep_macs": 0.5, "data": "digits.pool", "structures": ALL},
        {"keep_params": 0.7, "score": "magnitude"},
    ],
    ids=["labelled", "unlabelled", "magnitude"],
)
def test_checkpoint_is_smaller_and_opens_again(fields: dict[str, Any]) -> None:
    said, name = io.StringIO(), f"small-{fields.get('data', 'no-data')}"
    artifact = workbench().run("prune", name, Context(progress=progress_for(said)), model=trained().id, **fields)
    cost, keep = ("macs", fields["keep_macs"]) if "keep_macs" in fields else ("params", fields["keep_params"])
    share = artifact.metrics[cost] / trained().metrics[cost]
    assert keep - 0.03 < share <= keep
    opened = open_checkpoint(artifact)
    assert cost_of(opened.module, opened.preprocess) == {key: artifact.metrics[key] for key in ("params", "macs")}
    assert len({one.units for one in structures_of(opened.module).values() if one.kind == "hidden"}) > 1  # uneven
    assert ("own answers" in said.getvalue()) == (fields.get("data") == "digits.pool")
    assert f"{share:.1%} of the {'MACs' if cost == 'macs' else 'parameters'}" in said.getvalue()
    assert same_weights(artifact, workbench().run("prune", name, again=True, model=trained().id, **fields))


def test_taylor_keeps_more_of_what_was_learned_than_chance_does() -> None:
    whole = open_checkpoint(trained())
    structures, _ = prunable(whole.module, ("heads", "hidden"))
    by_taylor = pruned("by-taylor", keep_macs=0.7, data="digits.support")
    distances = [distance_to(whole.module, model_from_checkpoint(by_taylor))]
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        random = {path: torch.rand(1, one.units, generator=generator) for path, one in structures.items()}
        distances.append(
            distance_to(
                whole.module, pruned_model(whole, plan_removal(whole, Importance(random, {}), "macs", 0.7)).module
            )
        )
    assert distances[0] < 0.5 * min(distances[1:])


def distance_to(model: nn.Module, other: nn.Module) -> float:
    """The mean distance of two models' answers to digits, in probability."""
    digits = open_dataset(workbench().made["digits.test"])
    one, another = (outputs_of(each, digits, trained().io.preprocess, CPU).softmax(-1) for each in (model, other))
    return float((one - another).abs().sum(-1).mean())


def test_everything_kept_is_the_same_model() -> None:
    assert same_weights(trained(), pruned("whole", keep_macs=1.0, score="magnitude"))


def test_pruned_model_is_exported_and_quantized_and_answers_the_same() -> None:
    bench, source = workbench(), pruned()
    onnx = bench.run("export", "pruned-onnx", model=source.id)
    int8 = bench.run("quantize", "pruned-int8", model=onnx.id, calibration="digits.pool", calibration_images=32)
    images = random_images(source.io, 3, seed=0)
    session = OnnxruntimeSession(onnx.file("model.onnx"), onnx.io, onnx.model_file.options, 1)
    with torch.no_grad():
        expected = model_from_checkpoint(source)(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(session.infer({"image": images})["logits"], expected, atol=1e-4, rtol=1e-4)
    assert onnx.metrics["macs"] == source.metrics["macs"]
    assert int8.metrics["quantized_ops"]


@pytest.mark.slow
def test_what_is_left_is_distilled_trained_adapted_and_pruned_again() -> None:
    bench, source = workbench(), pruned("blocks-too", keep_macs=0.3, data="digits.support", structures=ALL)
    streams = ({"data": "digits.support", "share": 0.2}, {"data": "digits.pool", "share": 0.8})
    distilled = bench.run(
        "distill", "recovered", teacher=trained().id, init=source.id, streams=streams, objectives=({"loss": "soft"},),
        **{**SHORT, "epochs": 6}, augmentation=GENTLE, drop_path_rate=0.1,
    )  # fmt: skip
    adapted = bench.run("fewshot", "adapted", model=source.id, support="digits.support", method="finetune", **SHORT)
    for one in (distilled, adapted):
        assert one.metrics["macs"] == source.metrics["macs"]
        assert not same_weights(one, source)
    assert open_checkpoint(distilled).description.changes == open_checkpoint(source).description.changes
    teacher, student, before = map(model_from_checkpoint, (trained(), distilled, source))
    assert distance_to(teacher, student) < 0.8 * distance_to(teacher, before)
    larger = bench.run("train", "trained-again", init=pruned().id, data="digits.support", layer_decay=0.8, **SHORT)
    assert larger.metrics["macs"] == pruned().metrics["macs"]
    assert not same_weights(larger, pruned())
    twice = bench.run("prune", "pruned-twice", model=larger.id, keep_macs=0.8, score="magnitude")
    assert twice.metrics["macs"] <= 0.8 * larger.metrics["macs"]


def test_another_head_on_a_pruned_model_is_trained_too() -> None:
    bench = workbench()
    stranger = bench.run("load", "two-classes", **VIT, classes=("cat", "dog"))
    small = bench.run("prune", "two-classes-pruned", model=stranger.id, keep_params=0.6, score="magnitude")
    again = bench.run("train", "ten-classes", init=small.id, data="digits.support", **SHORT)
    assert again.io.classes == tuple("0123456789")
    assert open_checkpoint(again).description.changes == open_checkpoint(small).description.changes


@cache
def wide() -> Artifact:
    """A ViT whose time goes into products: some 120 M multiply-accumulates in one block, which is soon exported."""
    args = {"patch_size": 16, "embed_dim": 512, "depth": 1, "num_heads": 8}
    model = {"model": "vit_tiny_patch16_224", "model_args": args, "image_size": 96}
    return workbench().run("load", "wide", **model, classes=("cat", "dog"))


@pytest.mark.slow
def test_latency_is_measured_until_it_is_low_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "STEPS", 1)
    monkeypatch.setattr(targets, "CHOICE", replace(targets.CHOICE, duration_s=0.1))
    monkeypatch.setattr(loop, "STARTS", 6)
    said, bench = io.StringIO(), workbench()
    small = bench.run(
        "prune", "fast", Context(progress=progress_for(said)), model=wide().id, keep_latency=0.6, score="magnitude"
    )
    timed = small.metrics["timed"]
    assert len(timed) == 1 + 1 == said.getvalue().count("of the latency")
    assert all(one["low"] <= one["latency"] <= one["high"] for one in timed)
    keep = max(one["keep"] for one in timed if one["latency"] <= 0.6)
    assert keep - 0.02 < small.metrics["macs"] / wide().metrics["macs"] <= keep
    exported = [bench.run("export", f"{model.id}-onnx", model=model.id) for model in (small, wide())]
    raced = compare_speed(target_for("local-cpu", Context()), exported[0], exported[1], threads=1)
    assert raced.ratio < 0.85  # wide of 0.6: others use this machine


@pytest.mark.slow
def test_what_is_too_slow_at_its_smallest_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "CHOICE", replace(targets.CHOICE, duration_s=0.1))
    monkeypatch.setattr(loop, "STARTS", 6)
    with pytest.raises(RecipeError, match=r"(?s)cannot make the model so fast.*keep_latency: 0.01.*at least 0\.\d{3}"):
        workbench().run("prune", "too-slow", model=wide().id, keep_latency=0.01, score="magnitude")


class ReplayingTarget(LocalCpu):
    """A stand-in for a board: it answers with recorded times, which please."""

    def race(self, models: Sequence[Artifact], options: SessionOptions, plan: MeasurePlan) -> tuple[Comparison, ...]:
        return comparisons_of_turns([[[0.5], [1.0]]] * 6, plan, {}, "replayed")


def test_replayed_times_choose_no_share() -> None:
    model = open_checkpoint(workbench().run("load", "two-classes", **VIT, classes=("cat", "dog")))
    search = latency.LatencySearch("less", ReplayingTarget(), 1, SilentProgress())
    with pytest.raises(TargetError, match=r"(?s)replay.*keep_latency: 0\.6.*keep_macs"):
        search.share(model, lambda keep: model, 0.1, 0.6)


class HalvingTarget(LocalCpu):
    """A board on which each smaller model takes half of the time."""

    def race(self, models: Sequence[Artifact], options: SessionOptions, plan: MeasurePlan) -> tuple[Comparison, ...]:
        return comparisons_of_turns([[[0.5], [1.0]]] * 6, plan, {})


def test_each_trial_has_a_name_and_a_file_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "STEPS", 2)
    model = open_checkpoint(workbench().run("load", "two-classes", **VIT, classes=("cat", "dog")))
    names = []

    def deployed(name: str, file: Artifact) -> Artifact:
        names.append(name)
        assert file.model_file.weight_precision == "float16"
        return file

    search = latency.LatencySearch("less", HalvingTarget(), 1, SilentProgress(), "float16", deployed)
    keep, trials = search.share(model, lambda keep: model, 0.9999, 0.6)
    assert len(trials) == 3
    assert keep == pytest.approx(1, abs=1e-4)
    assert names[0] == "whole"
    assert len(set(names)) == 1 + len(trials)


@given(limit=st.floats(0.01, 0.999), least=st.floats(0, 0.99))
def test_the_largest_share_that_is_fast(limit: float, least: float) -> None:
    assume(least <= limit)
    found = latency.largest_share(lambda share: share <= limit, least)
    assert found <= limit < found + (1 - least) / 2**latency.STEPS + 1e-12


def test_a_latency_is_of_this_machine_and_a_cost_of_any() -> None:
    for cost, target in (("keep_macs", None), ("keep_latency", target_info("local-cpu", "onnxruntime", Context()))):
        config = Prune.model_validate(
            {"stage": "prune", "id": "p", "model": wide().id, cost: 0.5, "score": "magnitude"}
        )
        assert ingredients_of(config, {"model": wide()}, Context())["target"] == target


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "give one of 'keep_macs', 'keep_params' and 'keep_latency'"),
        ({"keep_macs": 0.5, "score": "magnitude", "threads": 2}, "'threads' goes with keep_latency"),
        ({"keep_macs": 0.5, "score": "magnitude", "runtime": "tensorrt"}, "'runtime' goes with keep_latency"),
        ({"keep_macs": 0.5, "keep_params": 0.5, "data": "d"}, "give one of"),
        ({"keep_macs": 0.5, "keep_latency": 0.5, "data": "d"}, "give one of"),
        ({"keep_macs": 0.5}, "taylor needs images"),
        ({"keep_macs": 0.5, "score": "magnitude", "data": "d"}, "leave out data"),
        ({"keep_macs": 0.5, "score": "magnitude", "structures": ("blocks",)}, "leave out blocks"),
        ({"keep_macs": 0.0, "data": "d"}, "above 0"),
        ({"keep_macs": 0.5, "data": "d", "structures": ()}, "at least 1 item"),
    ],
)
def test_contradictions_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Prune.model_validate({"stage": "prune", "id": "p", "model": "m", **fields})


def test_what_cannot_be_done_is_said() -> None:
    with pytest.raises(RecipeError, match="cannot make the model so small"):
        pruned("too-small", keep_macs=0.01, score="magnitude")
    resnet = workbench().run("load", "resnet-unprunable", model="resnet18", image_size=32, classes_of="digits.test")
    with pytest.raises(RecipeError, match="no structure that pruning could remove"):
        workbench().run("prune", "no-structures", model=resnet.id, keep_macs=0.5, score="magnitude")
