"""pretrain: a backbone from images without labels, which later stages take."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from edgevit.configs import STAGES, Pretrain
from edgevit.context import Context
from edgevit.errors import RecipeError
from edgevit.models import open_checkpoint
from edgevit.progress import PlainProgress
from edgevit.provenance import WEIGHTS_FROM, untrained
from tests.small_models import HYBRID, VIT, checkpoint, workbench

QUICK: dict[str, Any] = {"data": "few.pool", "epochs": 1, "batch_size": 32}  # 151 images


def body() -> Any:
    made = workbench().made
    if "body" not in made:
        workbench().run("pretrain", "body", method={"type": "simclr", "dimensions": 16}, **VIT, **QUICK)
    return made["body"]


def test_labels_are_not_used_and_that_is_said() -> None:
    said = io.StringIO()
    context = replace(Context(), progress=PlainProgress(said))
    workbench().run("pretrain", "labelled", context, method="mae", **VIT, **{**QUICK, "data": "digits.support"})
    assert "the labels of digits.support are not used" in said.getvalue()


def test_a_new_backbone_has_trained_weights_and_an_untrained_classifier_without_names() -> None:
    artifact = body()
    assert artifact.metrics["method"] == "simclr"
    assert set(artifact.metrics) >= {"loss", "spread", "rank", "embedding_spread", "embedding_rank"}
    assert artifact.manifest.provenance[WEIGHTS_FROM] == {"body": "trained", "classifier": "random"}
    assert not artifact.io.names_its_classes
    assert (artifact.path / "metrics.jsonl").is_file()


def test_the_backbone_of_a_checkpoint_changes_and_its_classes_stay() -> None:
    start = checkpoint()
    further = workbench().run("pretrain", "further", init=start.id, method="byol", **QUICK)
    assert further.io.classes == start.io.classes
    assert further.manifest.provenance[WEIGHTS_FROM] == {"body": "trained", "classifier": "random"}
    before, after = (open_checkpoint(artifact).module.state_dict() for artifact in (start, further))
    assert torch.equal(before["head.weight"], after["head.weight"])
    assert not torch.equal(before["blocks.0.attn.qkv.weight"], after["blocks.0.attn.qkv.weight"])


def test_a_trained_classifier_is_stale_after_pretrain() -> None:
    classifier = workbench().run("train", "classifier", data="digits.support", epochs=1, batch_size=50, **VIT)
    further = workbench().run("pretrain", "stale", init=classifier.id, method="mae", **QUICK)
    assert further.manifest.provenance[WEIGHTS_FROM] == {"body": "trained", "classifier": "stale"}
    assert "classifier is stale" in str(untrained(further))
    unchanged = workbench().run("pretrain", "unchanged", init=classifier.id, method="mae", **{**QUICK, "epochs": 0})
    assert untrained(unchanged) is None


def test_a_moving_average_that_keeps_its_start_is_mentioned() -> None:
    said = io.StringIO()
    method = {"type": "byol", "momentum": 0.996}
    workbench().run("pretrain", "slow", replace(Context(), progress=PlainProgress(said)), method=method, **VIT, **QUICK)
    share = math.prod(1 - 0.004 * (1 + math.cos(math.pi * step / 5)) / 2 for step in range(1, 6))  # 151 images by 32
    assert f"{share:.0%} of the initial weights stay in the teacher (momentum 0.996, 5 steps)" in said.getvalue()


def test_a_hybrid_learns_by_dino_from_views_of_two_sizes() -> None:
    views = ({"count": 2, "scale": (0.4, 1)}, {"count": 2, "size": 32, "scale": (0.1, 0.4)})
    method = {"type": "dino", "prototypes": 32, "hidden": 16, "bottleneck": 8}
    made = workbench().run("pretrain", "hybrid-body", method=method, views=views, image_size=64, **HYBRID, **QUICK)
    assert open_checkpoint(made).module(torch.zeros(1, 3, 64, 64)).shape == (1, 1)


def test_later_stages_take_the_backbone() -> None:
    bench, artifact = workbench(), body()
    few = bench.run("fewshot", "from-body", model=artifact.id, support="digits.support", method="ridge", random_views=0)
    assert len(few.io.classes) == 10
    start = bench.run("train", "train-body", init=artifact.id, data="digits.support", epochs=0)
    kept = open_checkpoint(artifact).module.state_dict()["blocks.0.attn.qkv.weight"]
    assert torch.equal(open_checkpoint(start).module.state_dict()["blocks.0.attn.qkv.weight"], kept)
    student = bench.run(
        "distill", "student-body", teacher=artifact.id, streams=({"data": "few.pool"},), **VIT,
        objectives=({"loss": "features", "student": "pooled", "teacher": "pooled"},), epochs=1, batch_size=64,
    )  # fmt: skip
    assert student.metrics["params"] == artifact.metrics["params"]
    again = bench.run("pretrain", "again", init=artifact.id, method="simclr", **{**QUICK, "epochs": 0})
    assert torch.equal(open_checkpoint(again).module.state_dict()["blocks.0.attn.qkv.weight"], kept)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"batch_size": 200}, r"(?s)fewer images than a batch has.*151 images, batch_size 200.*batch_size: 75"),
        ({"method": "moco"}, r"(?s)several keys of each image.*151 images, queue 4096.*queue: 37"),
        ({"method": "mae", **HYBRID, "image_size": 32}, "patches of a plain ViT"),
        ({"views": ({"count": 2, "size": 20},), "method": "simclr"}, r"(?s)cannot take views of 20 px.*leave size out"),
    ],
)
def test_what_a_method_cannot_use_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        workbench().run("pretrain", "refused", **{**VIT, **QUICK, "method": "simclr", **fields})


def config_of(**fields: Any) -> Pretrain:
    config = STAGES["pretrain"].model_validate({"stage": "pretrain", "id": "x", "model": "m", "data": "d", **fields})
    assert isinstance(config, Pretrain)
    return config


def test_a_method_brings_its_views_and_changes() -> None:
    assert [view.count for view in config_of().views] == [2, 4]
    assert config_of(method="mae").views[0].count == 1
    assert not config_of(method="mae").augmentation.grayscale
    assert config_of(method="byol").augmentation.grayscale == 0.2
    assert config_of(method={"type": "moco", "queue": 5}).views[0].count == 2
    given = config_of(method="simclr", augmentation={"horizontal_flip": 0})
    assert (given.augmentation.horizontal_flip, given.augmentation.grayscale, given.augmentation.blur) == (0, 0.2, 0.5)
    assert config_of(method="simclr", augmentation={"grayscale": 0}).augmentation.grayscale == 0
    assert config_of(method="mae", augmentation={"horizontal_flip": 0}).augmentation.grayscale == 0
    assert config_of(**given.model_dump(exclude={"stage", "id", "model", "data"})).augmentation == given.augmentation


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"method": "dinov2"}, "dino"),
        ({"method": {"type": "dino", "teacher_temperature": 0.1}}, "below student_temperature"),
        *(({"method": {"type": name, "momentum": 1}}, "below 1") for name in ("dino", "byol", "moco")),
        *(({"method": {"type": name, "temperature": 1e-9}}, "at least 0.01") for name in ("simclr", "moco")),
        ({"method": {"type": "simclr", "temperature": 1e6}}, "at most 10"),
        ({"augmentation": {"scale": [0.9, 1]}}, "each view has its own scale"),
        ({"method": "simclr", "views": [{"count": 3}]}, "simclr takes two views, got 3"),
        ({"method": "mae", "views": [{"size": 8}]}, "one view of the model's own size"),
        ({"views": [{"count": 1}, {"count": 4}]}, "at least two views"),
        ({"augmentation": {"mixup": 0.2}}, "leave out mixup"),
        ({"method": "simclr", "accumulation": 2}, "leave accumulation out"),
        ({"ema_decay": 0.9}, "moving average already"),
        ({"compile": True}, "leave compile out"),
        ({"freeze": "backbone"}, "leave freeze out"),
        ({"label_smoothing": 0.1}, "Extra inputs"),
        ({"init": "c"}, "either 'model'"),
    ],
)
def test_options_that_do_not_go_together_are_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        config_of(**fields)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["simclr", "dino", "moco"])
def test_two_ranks_learn_as_one(method: str) -> None:
    options = {"simclr": {"dimensions": 16}, "dino": {"prototypes": 32}, "moco": {"queue": 64}}
    fields = {**VIT, **QUICK, "method": {"type": method, **options[method]}, "optimizer": "sgd", "clip_grad_norm": 1}
    one = workbench().run("pretrain", f"one-{method}", **fields)
    two = workbench().run("pretrain", f"two-{method}", Context(ranks=2), again=True, **fields)
    left, right = (open_checkpoint(artifact).module.state_dict() for artifact in (one, two))
    for name, weight in left.items():
        torch.testing.assert_close(weight, right[name], atol=1e-5, rtol=1e-3, msg=name)
