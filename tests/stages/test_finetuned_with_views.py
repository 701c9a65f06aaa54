"""A student fine-tuned by LoRA at a rate chosen inside the support, that answers over views, on its whole way."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from edgevit.artifacts import Artifact
from edgevit.context import Context
from edgevit.models import model_from_checkpoint
from edgevit.models.views import MultiViewModel
from tests.small_models import VIT, workbench

FIELDS: dict[str, Any] = {
    "support": "digits.support",
    "method": "finetune",
    "tune": "lora",
    "learning_rates": (1e-3, 3e-3),
    "epochs": 2,
    "batch_size": 25,
    "augmentation": {"horizontal_flip": 0, "scale": (0.8, 1.0)},
}


@cache
def base() -> Artifact:
    return workbench().run("load", "of-other-classes", **VIT, classes=tuple("abcdefghij"))


@cache
def tuned() -> Artifact:
    return workbench().run("fewshot", "by-lora", model=base().id, test_time_views=("flip", "zoom"), **FIELDS)


def test_checkpoint_is_a_plain_one_with_views_and_tells_how_its_rate_was_chosen() -> None:
    found, plain = tuned(), base()
    described = json.loads((found.path / "model.json").read_text())
    assert described["changes"] == [{"change": "test_time_views", "views": ["flip", "zoom"]}]
    assert found.metrics["params"] == plain.metrics["params"]
    assert found.metrics["macs"] == 3 * plain.metrics["macs"]
    scores = found.manifest.provenance["learning_rate_scores"]
    assert set(scores) == {"0.001", "0.003"}
    best = max(scores, key=lambda rate: (scores[rate]["accuracy"], scores[rate]["log_likelihood"]))
    assert found.manifest.provenance["learning_rate"] == float(best)
    after, before = (load_file(one.path / "model.safetensors") for one in (found, plain))
    assert after.keys() == before.keys()
    changed = {key for key in after if not torch.equal(after[key], before[key])}
    assert {"head.weight", "blocks.1.mlp.fc2.weight"} <= changed
    assert not {"pos_embed", "norm.weight", "blocks.0.attn.qkv.bias"} & changed


@pytest.mark.slow
def test_made_again_it_is_the_same() -> None:
    first = tuned().digest
    views = ("flip", "zoom")
    again = workbench().run("fewshot", "again", model=base().id, again=True, test_time_views=views, **FIELDS)
    assert again.digest == first


@pytest.mark.slow
def test_views_go_along_to_the_device() -> None:
    model = tuned()
    onnx = workbench().run("export", "views-onnx", model=model.id)
    int8 = workbench().run("quantize", "views-int8", model=onnx.id, calibration="digits.pool", calibration_images=32)
    engine = workbench().run("compile", "views-engine", model=int8.id)
    answers = []
    for one in (model, onnx, engine):
        evaluated = workbench().run("evaluate", f"evaluated-{one.id}", model=one.id, data="digits.support")
        answers.append(np.load(evaluated.path / "predictions.npz")["probabilities"])
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-4)
    assert (answers[0].argmax(1) == answers[2].argmax(1)).mean() > 0.8
    profiled = workbench().run("profile", "views-profile", model=model.id, min_runs=5, warmup_s=0, duration_s=0.1)
    assert profiled.metrics["latency_ms"]["n"] >= 5


def test_training_goes_on_without_the_views() -> None:
    model = workbench().run("train", "after-views", init=tuned().id, data="digits.support", epochs=0)
    assert json.loads((model.path / "model.json").read_text())["changes"] == []
    adapted = workbench().run("fewshot", "headed-after-views", model=tuned().id, support="digits.support")
    assert not isinstance(model_from_checkpoint(adapted), MultiViewModel)


def test_a_model_with_views_can_teach() -> None:
    student = workbench().run(
        "distill",
        "of-views",
        teacher=tuned().id,
        **VIT,
        streams=({"data": "digits.support"},),
        objectives=({"loss": "soft"}, {"loss": "features", "student": "pooled", "teacher": "pooled"}),
        epochs=1,
        batch_size=25,
    )
    assert student.manifest.provenance["teacher_top1_in_training"] is not None


@pytest.mark.slow
def test_two_ranks_choose_together() -> None:
    model = workbench().run("fewshot", "on-ranks", Context(ranks=2, workers=0), again=True, model=base().id, **FIELDS)
    assert set(model.manifest.provenance["learning_rate_scores"]) == {"0.001", "0.003"}
