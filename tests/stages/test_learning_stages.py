"""load, train, distill and fewshot as a recipe runs them, on digits and tiny models."""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from edgevit.artifacts import Artifact
from edgevit.context import Context
from edgevit.data import open_dataset
from edgevit.errors import ArtifactError, DataError, RecipeError
from edgevit.inference.over_dataset import accuracy
from edgevit.models import create_model, model_from_checkpoint, open_checkpoint, save_checkpoint
from edgevit.models.distillation_token import DistillationToken
from edgevit.progress import PlainProgress
from tests.small_models import VIT, workbench

AUGMENTATION: dict[str, Any] = {"horizontal_flip": 0, "scale": (0.8, 1.0)}
SHORT: dict[str, Any] = {"epochs": 2, "batch_size": 25, "augmentation": AUGMENTATION}
TOKEN_VIT: dict[str, Any] = {**VIT, "model": "deit_tiny_distilled_patch16_224", "distillation_token": True}


def top1(model: Artifact, data: str = "digits.support") -> float:
    dataset = open_dataset(workbench().made[data])
    return accuracy(model_from_checkpoint(model), dataset, model.io.preprocess, torch.device("cpu"))


@cache
def teacher() -> Artifact:
    fields = {**SHORT, "epochs": 60, "learning_rate": 2e-3}
    return workbench().run("train", "teacher", **VIT, data="digits.support", val="digits.support", **fields)


SOFT = ({"loss": "soft"}, {"loss": "cross_entropy", "weight": 0.1})


def distilled(name: str, **changes: Any) -> Artifact:
    streams = ({"data": "few.pool", "share": 0.8}, {"data": "digits.support", "share": 0.2})
    fields = {**TOKEN_VIT, **SHORT, "teacher": teacher().id, "streams": streams, **changes}
    return workbench().run("distill", name, **fields)


# load


def test_load_takes_classes_from_a_data_set() -> None:
    model = workbench().run("load", "from-data", **VIT, classes_of="digits.support")
    assert model.io.classes == tuple("0123456789")
    assert model.io.outputs[0].shape == ("batch", 10)
    assert model.metrics["params"] == sum(p.numel() for p in model_from_checkpoint(model).parameters())


def test_load_names_the_outputs_of_a_model_of_a_thousand_by_synset() -> None:
    model = workbench().run("load", "imagenet", **VIT)
    assert (len(model.io.classes), model.io.classes[0]) == (1000, "n01440764")


def test_load_takes_a_users_weights_and_their_number_of_classes(tmp_path: Path) -> None:
    theirs = create_model(VIT["model"], 7, 32, VIT["model_args"], seed=3)
    save_checkpoint(theirs.module, theirs.description, tmp_path)
    model = workbench().run("load", "theirs", **VIT, weights=str(tmp_path / "model.safetensors"))
    assert model.io.classes == tuple("0123456")
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(model_from_checkpoint(model)(images), theirs.module(images))


def test_load_says_where_a_missing_file_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"rubbish")
    with pytest.raises(ArtifactError) as caught:
        workbench().run("load", "rubbish", **VIT, weights=str(tmp_path / "w.safetensors"))
    assert caught.value.where == tmp_path / "w.safetensors"


# train


def test_train_learns_and_keeps_its_curve() -> None:
    model = teacher()
    assert model.metrics["val_top1"] > 0.2  # chance is a tenth
    assert model.metrics["val_top1"] == pytest.approx(top1(model))
    last = json.loads((model.path / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["epoch"] == 60
    assert not model.manifest.files["metrics.jsonl"].content


def test_same_recipe_and_seed_give_the_same_weights_whatever_the_workers() -> None:
    hashes = set()
    for number, workers in enumerate((0, 0, 2)):
        model = workbench().run(
            "train", f"again{number}", Context(workers=workers), again=True, **VIT, data="digits.support", **SHORT
        )
        hashes.add((model.manifest.files["model.safetensors"].sha256, model.digest))
    assert len(hashes) == 1


def test_train_goes_on_from_a_checkpoint_with_a_new_head_for_other_classes() -> None:
    base = workbench().run("load", "other-classes", **VIT, classes=("x", "y"))
    model = workbench().run("train", "from-base", init=base.id, data="digits.support", **{**SHORT, "epochs": 0})
    base_state, state = model_from_checkpoint(base).state_dict(), model_from_checkpoint(model).state_dict()
    assert torch.equal(base_state["blocks.0.attn.qkv.weight"], state["blocks.0.attn.qkv.weight"])
    assert state["head.weight"].shape[0] == 10


def test_train_on_a_pool_is_refused() -> None:
    with pytest.raises(RecipeError, match="needs labels"):
        workbench().run("train", "on-pool", **VIT, data="digits.pool", **SHORT)


# distill


def test_student_comes_to_agree_with_its_teacher() -> None:
    student = distilled("student", epochs=30, learning_rate=2e-3, objectives=SOFT)
    test = open_dataset(workbench().made["digits.pool"])
    agreement = []
    for model in (student, distilled("untrained", epochs=0)):
        says = []
        for one in (model, teacher()):
            module = model_from_checkpoint(one)
            images = torch.stack([torch.from_numpy(test.image(index)) for index in range(200)])
            with torch.no_grad():
                normalised = (images.permute(0, 3, 1, 2) / 255 - 0.45) / 0.225
                says.append(module(normalised).argmax(-1))
        agreement.append(float((says[0] == says[1]).float().mean()))
    assert agreement[0] > agreement[1] + 0.2
    assert top1(student) > 0.2


def test_token_student_is_described_as_one_and_answers_with_one_tensor() -> None:
    student = distilled("token")
    assert open_checkpoint(student).description.change(DistillationToken)
    assert model_from_checkpoint(student)(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_teacher_of_other_classes_is_refused() -> None:
    stranger = workbench().run("load", "stranger", **VIT, classes=("cat", "dog"))
    with pytest.raises(RecipeError, match="does not know 10 of the student's 10 classes"):
        distilled("from-stranger", teacher=stranger.id)


def test_teacher_without_classes_is_refused_where_its_answers_would_teach() -> None:
    body = workbench().run("load", "body-alone", model="coatnet_1m", pretrained=True, image_size=32)
    with pytest.raises(RecipeError, match="a teacher without classes has no answers") as caught:
        distilled("from-body", teacher=body.id)
    assert "loss: features" in str(caught.value.next)


def test_label_loss_without_labels_is_refused() -> None:
    with pytest.raises(RecipeError, match="applies to labelled"):
        distilled("unlabelled", streams=({"data": "digits.pool"},))


def test_another_size_for_a_checkpoint_is_refused() -> None:
    with pytest.raises(RecipeError, match="keeps its image size"):
        distilled("resized", model=None, model_args={}, init=teacher().id, image_size=64, distillation_token=False)


# fewshot


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(None, marks=pytest.mark.slow),
        "nearest_centroid",
        pytest.param("logistic_regression", marks=pytest.mark.slow),
    ],
)
def test_fewshot_adapts_a_model_of_other_classes(method: str | None) -> None:
    base = workbench().run("load", "foreign", **VIT, classes=("x", "y"))
    model = workbench().run(
        "fewshot",
        f"adapted-{method}",
        model=base.id,
        support="digits.support",
        pool="digits.pool",
        method=method,
        augmentation=AUGMENTATION,
    )
    assert model.metrics["method"] == (method or "label_propagation")
    assert top1(model) > 0.2
    assert model.io.classes == tuple("0123456789")


def test_fewshot_finetunes_a_student() -> None:
    student = distilled("to-tune")
    tuned = workbench().run(
        "fewshot", "tuned", model=student.id, support="digits.support", pool="digits.pool", method="finetune", **SHORT
    )
    assert (tuned.path / "metrics.jsonl").is_file()
    assert tuned.manifest.provenance["precision"] == "float32"
    assert open_checkpoint(tuned).description.change(DistillationToken)


def test_fewshot_without_labels_is_refused() -> None:
    with pytest.raises(DataError, match="needs labels"):
        workbench().run("fewshot", "no-labels", model=teacher().id, support="digits.pool", method="nearest_centroid")


@pytest.mark.slow
def test_fewshot_gives_advice_about_its_support(capsys: pytest.CaptureFixture[str]) -> None:
    base = workbench().run("load", "to-advise", **VIT, classes=("x", "y"))
    fields = {"model": base.id, "support": "digits.support", "pool": "digits.pool", "augmentation": AUGMENTATION}
    context = Context(progress=PlainProgress(sys.stdout))
    model = workbench().run("fewshot", "advised", context, method="ridge", seed=1, **fields)
    found = json.loads(model.file("advice.json").read_text())
    assert model.manifest.files["advice.json"].content
    assert (found["images"], found["classes"], found["shots"]) == (50, 10, 5)
    assert [one["shots"] for one in found["learning_curve"]["points"]] == [1, 2, 3, 4]
    assert found["learning_curve"]["outlook"]["shots"] == 10
    assert found["pool"]["unlike"] is False
    said = [line for line in capsys.readouterr().out.splitlines() if "more images per class" in line]
    assert len(said) == 1
    baseline = workbench().run("fewshot", "baseline", context, method="nearest_centroid", seed=1, **fields)
    assert baseline.file("advice.json").read_bytes() == model.file("advice.json").read_bytes()
    assert "more images" not in capsys.readouterr().out, "the points are said once"


def test_finetuning_alone_computes_no_features_to_advise_from() -> None:
    fields = {"model": teacher().id, "support": "digits.support", "method": "finetune", **SHORT, "epochs": 0}
    assert "advice.json" not in workbench().run("fewshot", "unadvised", **fields).manifest.files
