"""pretrain: a backbone from images without labels, which later stages take."""

from __future__ import annotations

import io
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from edgevit.configs import STAGES, ImageFolder, Pretrain
from edgevit.context import Context
from edgevit.data import dataset_artifacts
from edgevit.errors import RecipeError
from edgevit.models import open_checkpoint
from edgevit.progress import PlainProgress
from edgevit.provenance import WEIGHTS_FROM, untrained
from edgevit.training.ssl.setup import pretrained
from tests.small_models import HYBRID, VIT, checkpoint, workbench

SWIN: dict[str, Any] = {
    "model": "swin_tiny_patch4_window7_224",
    "model_args": {"embed_dim": 12, "depths": [1, 1], "num_heads": [1, 1]},
}
QUICK: dict[str, Any] = {"data": "few.pool", "epochs": 1, "batch_size": 32}  # 151 images


def body() -> Any:
    made = workbench().made
    if "pretrained-body" not in made:
        workbench().run("pretrain", "pretrained-body", method={"type": "simclr", "dimensions": 16}, **VIT, **QUICK)
    return made["pretrained-body"]


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


def test_statistics_of_a_pretrained_network_are_kept_or_their_change_is_said() -> None:
    bench = workbench()
    start = bench.run("load", "shipped", model="coatnet_1m", pretrained=True, image_size=32)
    before, notes = open_checkpoint(start).module.state_dict(), {}
    freeze: dict[str, Any] = {"freeze_batch_norm": True}
    # The result of BYOL is its student, that of DINO its teacher.
    small_dino = {"type": "dino", "prototypes": 32, "hidden": 16, "bottleneck": 8}
    whole = ({"count": 2, "scale": (0.4, 1)},)
    for name, frozen in {"byol": freeze, "dino": {**freeze, "views": whole}, "new": {}}.items():
        said = io.StringIO()
        context = replace(Context(), progress=PlainProgress(said))
        method = small_dino if name == "dino" else "byol"
        made = bench.run("pretrain", f"shipped-{name}", context, init=start.id, method=method, **QUICK, **frozen)
        after = open_checkpoint(made).module.state_dict()
        kept = [torch.equal(before[name], after[name]) for name in before if "running" in name]
        assert set(kept) == {bool(frozen)}
        assert not torch.equal(before["stem.norm1.weight"], after["stem.norm1.weight"])
        notes[bool(frozen)] = said.getvalue()
    assert f"batch normalization of {start.id} gets the statistics of these images" in notes[False]
    assert "batch normalization of" not in notes[True]


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


@pytest.mark.parametrize("method", ["esvit", "pirl", "sit", "rotation", "jigsaw"])
def test_further_methods_make_backbones(method: str) -> None:
    options = {"esvit": {"prototypes": 32}, "pirl": {"negatives": 64}, "jigsaw": {"permutations": 20}}
    made = workbench().run(
        "pretrain", f"by-{method}", method={"type": method, **options.get(method, {})}, **VIT, **QUICK
    )
    assert made.metrics["method"] == method
    assert open_checkpoint(made).module(torch.zeros(1, 3, 32, 32)).shape == (1, 1)  # at its own size again


def test_a_hybrid_learns_by_fcmae() -> None:
    made = workbench().run("pretrain", "by-fcmae", method="fcmae", image_size=64, **HYBRID, **QUICK)
    assert made.metrics["method"] == "fcmae"
    assert open_checkpoint(made).module(torch.zeros(1, 3, 64, 64)).shape == (1, 1)


def test_auto_says_its_method_the_reason_and_the_time_of_an_epoch() -> None:
    said = io.StringIO()
    context = replace(Context(), progress=PlainProgress(said))
    made = workbench().run("pretrain", "by-auto", context, method="auto", **VIT, **QUICK)
    assert made.metrics["method"] == "simclr"
    assert "method auto takes simclr: two views are computed fast, and 151 images are too few" in said.getvalue()
    assert re.search(r"an epoch will take about .*, by the time of a few steps", said.getvalue())
    named = workbench().run("pretrain", "by-name", method="simclr", **VIT, **QUICK)
    before, after = (open_checkpoint(artifact).module.state_dict() for artifact in (named, made))
    assert all(torch.equal(before[name], after[name]) for name in before)  # the timed steps left nothing behind


def test_a_resumed_auto_keeps_its_method_on_another_machine(tmp_path: Path) -> None:
    bench, said = workbench(), io.StringIO()
    config = Pretrain.model_validate({"stage": "pretrain", "id": "resumed", "method": "auto", **VIT, **QUICK})
    inputs, context = {"data": bench.made["few.pool"]}, replace(Context(), progress=PlainProgress(said), work=tmp_path)
    (tmp_path / "out").mkdir()
    assert pretrained(config, inputs, context, tmp_path / "out").method == "simclr"
    assert json.loads((tmp_path / "method.json").read_text(encoding="utf-8")) == "simclr"
    for file in tmp_path.glob("*.*"):
        file.unlink()
    (tmp_path / "method.json").write_text('"dino"', encoding="utf-8")  # as a GPU chose
    said.truncate(0)
    assert pretrained(config, inputs, context, tmp_path / "out").method == "dino"
    assert "method auto goes on with dino, by which this training began" in said.getvalue()
    assert "an epoch will take" not in said.getvalue()


def test_crops_that_are_much_enlarged_are_mentioned() -> None:
    said = io.StringIO()
    fields = {**VIT, **QUICK, "image_size": 96, "method": "mae", "epochs": 0, "views": ({"scale": (0.2, 0.3)},)}
    workbench().run("pretrain", "enlarged", replace(Context(), progress=PlainProgress(said)), **fields)
    assert "views of 96 px are made from crops of about 16 px (images of 32 px)" in said.getvalue()


def test_sharded_weights_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"(?s)does not shard its weights.*--shard"):
        workbench().run("pretrain", "sharded", Context(ranks=2, shard=True), again=True, method="mae", **VIT, **QUICK)


def test_logits_of_a_classifier_that_does_not_fit_teach_nobody() -> None:
    fields = {"teacher": body().id, "streams": ({"data": "few.pool"},), "epochs": 1, "batch_size": 64, **VIT}
    with pytest.raises(RecipeError, match=r"(?s)logits of this teacher mean nothing.*put fewshot or train after"):
        workbench().run("distill", "taught", objectives=({"loss": "soft"},), **fields)
    with pytest.raises(RecipeError, match=r"(?s)logits of this teacher mean nothing"):
        workbench().run("pseudo_label", "labelled-by-body", teacher=body().id, data="few.pool")


@pytest.mark.parametrize("kind", ["corrupt", "giant"])
def test_one_bad_image_is_left_out_and_counted(tmp_path: Path, kind: str) -> None:
    for number in range(40):
        Image.fromarray(np.full((8, 8, 3), 6 * number, np.uint8)).save(tmp_path / f"{number}.png")
    bad = tmp_path / "17.png"
    if kind == "corrupt":
        bad.write_bytes(bad.read_bytes()[:30])
    else:
        Image.new("1", (20_000, 20_000)).save(bad)
    config = ImageFolder.model_validate({"source": "image_folder", "path": str(tmp_path), "classes": "none"})
    made = dataset_artifacts({kind: config}, Path(), [f"{kind}.train"])
    assert made[f"{kind}.train"].metrics["unreadable"] == 1
    workbench().made.update(made)
    fields = {**VIT, **QUICK, "data": f"{kind}.train", "batch_size": 8, "epochs": 1}
    assert workbench().run("pretrain", f"without-{kind}", method="rotation", **fields).metrics["loss"] > 0


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"batch_size": 200}, r"(?s)fewer images than a batch has.*151 images, batch_size 200.*batch_size: 75"),
        ({"method": "moco"}, r"(?s)several keys of each image.*151 images, queue 4096.*queue: 37"),
        ({"method": "mae", **HYBRID, "image_size": 32}, "patches of a plain ViT"),
        ({"views": ({"count": 2, "size": 20},), "method": "simclr"}, r"(?s)cannot take views of 20 px.*leave size out"),
        ({"method": "pirl"}, r"(?s)fewer memories.*151 images, negatives 4096.*negatives: 75"),
        ({"method": "sit", **HYBRID, "image_size": 32}, r"(?s)sit changes the patches of a plain ViT.*fcmae"),
        ({"method": "fcmae"}, r"(?s)attention alone.*mae for a plain ViT"),
        ({"method": "esvit", "model": "resnet18", "model_args": {}}, r"(?s)one region.*method: dino"),
        ({"method": "jigsaw", **SWIN, "image_size": 56}, r"(?s)SwinTransformer cannot take views of 16 px"),
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
        ({"method": "auto", "views": [{"count": 2}]}, "name a method"),
        ({"method": "sit", "views": [{"count": 2, "size": 8}]}, "model's own size"),
        ({"method": "fcmae", "views": [{"count": 2}]}, "fcmae takes one view, got 2"),
        ({"method": "fcmae", "grad_checkpointing": True}, "leave it out"),
        ({"method": {"type": "jigsaw", "grid": 2, "permutations": 25}}, "from 2 to 24 for 2 × 2 tiles, got 25"),
        ({"method": {"type": "jigsaw", "grid": 5}}, "at most 3"),
        ({"method": {"type": "pirl", "memory_momentum": 1}}, "below 1"),
        ({"method": {"type": "pirl", "temperature": 0}}, "at least 0.01"),
        ({"method": {"type": "esvit", "momentum": 1}}, "below 1"),
        ({"method": "esvit", "ema_decay": 0.9}, "moving average already"),
    ],
)
def test_options_that_do_not_go_together_are_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        config_of(**fields)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["simclr", "dino", "esvit", "moco", "rotation"])
def test_two_ranks_learn_as_one(method: str) -> None:
    options = {
        "simclr": {"dimensions": 16},
        "dino": {"prototypes": 32},
        "moco": {"queue": 64},
        "esvit": {"prototypes": 32},
    }
    fields = {
        **VIT,
        **QUICK,
        "method": {"type": method, **options.get(method, {})},
        "optimizer": "sgd",
        "clip_grad_norm": 1,
    }
    one = workbench().run("pretrain", f"one-{method}", **fields)
    two = workbench().run("pretrain", f"two-{method}", Context(ranks=2), again=True, **fields)
    left, right = (open_checkpoint(artifact).module.state_dict() for artifact in (one, two))
    for name, weight in left.items():
        torch.testing.assert_close(weight, right[name], atol=1e-5, rtol=1e-3, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["byol", "mae", "sit", "pirl", "jigsaw", "fcmae"])
def test_two_ranks_learn_the_same_twice_and_about_what_one_learns(method: str) -> None:
    """Each rank draws masks, noise and puzzles of its own, and BYOL's heads normalize the rows of a rank."""
    options = {"pirl": {"negatives": 64}, "jigsaw": {"permutations": 20}}
    backbone = {**HYBRID, "image_size": 64} if method == "fcmae" else VIT
    fields = {**backbone, **QUICK, "method": {"type": method, **options.get(method, {})}, "weight_decay": 0}
    one = workbench().run("pretrain", f"one-{method}", **fields)
    two = workbench().run("pretrain", f"two-{method}", Context(ranks=2), again=True, **fields)
    again = workbench().run("pretrain", f"again-{method}", Context(ranks=2), again=True, **fields)
    left, right = (open_checkpoint(artifact).module.state_dict() for artifact in (two, again))
    assert all(torch.equal(left[name], right[name]) for name in left)
    start = open_checkpoint(workbench().run("pretrain", f"start-{method}", **{**fields, "epochs": 0})).module
    assert not all(torch.equal(weight, left[name]) for name, weight in start.named_parameters())
    assert two.metrics["loss"] == pytest.approx(one.metrics["loss"], rel=0.2)
