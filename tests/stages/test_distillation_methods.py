"""Every method of recipes/methods.yaml, on tiny models; and what teaching may be: several teachers, kept answers."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from edgevit.artifacts import Artifact
from edgevit.configs import Distill
from edgevit.context import Context
from edgevit.errors import RecipeError
from edgevit.models import model_from_checkpoint
from edgevit.progress import progress_for
from edgevit.recipe import load_recipe
from tests.small_models import VIT, workbench

METHODS = {
    stage.id.removeprefix("student/"): stage
    for stage in load_recipe(Path(__file__).parents[2] / "recipes" / "methods.yaml").stages
    if isinstance(stage, Distill)
}
STREAMS = ({"data": "digits.support", "share": 0.5}, {"data": "few.pool", "share": 0.5})
SHORT: dict[str, Any] = {"epochs": 2, "batch_size": 50, "augmentation": {"horizontal_flip": 0, "scale": (0.8, 1.0)}}
STUDENT: dict[str, Any] = {**VIT, "model": "deit_tiny_distilled_patch16_224"}
RESNET: dict[str, Any] = {"model": "resnet18", "model_args": {"layers": (1, 1, 1, 1), "channels": (8, 16, 24, 32)}}


@cache
def teacher(name: str = "resnet-teacher", seed: int = 0) -> Artifact:
    fields = {**RESNET, "image_size": 64, "data": "digits.support", "seed": seed}
    return workbench().run("train", name, **{**fields, **SHORT})


def distilled(name: str, context: Context | None = None, again: bool = False, **changes: Any) -> Artifact:
    fields = {**STUDENT, **SHORT, "streams": STREAMS, "teacher": teacher().id, **changes}
    return workbench().run("distill", name, context, again, **fields)


def same_weights(one: Artifact, other: Artifact) -> bool:
    return one.manifest.files["model.safetensors"].sha256 == other.manifest.files["model.safetensors"].sha256


def test_the_recipe_has_every_kind_of_loss() -> None:
    used = {term.loss for method in METHODS.values() for term in method.objectives}
    assert used == {"cross_entropy", "hard", "soft", "dkd", "features", "attention_transfer"}


@pytest.mark.parametrize("method", METHODS)
def test_method_runs_and_ships_a_plain_student(method: str) -> None:
    config = METHODS[method].model_dump(mode="json")
    student = distilled(f"by-{method}", **{key: config[key] for key in ("objectives", "distillation_token")})
    state = model_from_checkpoint(student).state_dict()
    assert not [key for key in state if "projector" in key]
    assert model_from_checkpoint(student)(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    untaught = distilled(f"by-{method}-before", epochs=0, distillation_token=config["distillation_token"])
    assert not same_weights(student, untaught)


@pytest.mark.parametrize("accumulation", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_student_of_the_cache_is_the_student_without_it_to_the_bit(accumulation: int) -> None:
    live = distilled(f"live{accumulation}", accumulation=accumulation)
    first = distilled(f"first{accumulation}", teacher_cache={}, accumulation=accumulation)
    second = distilled(f"second{accumulation}", again=True, teacher_cache={}, accumulation=accumulation)
    assert same_weights(live, first)
    assert same_weights(live, second)
    steps = first.manifest.provenance["teacher_cache"]["computed"]
    assert steps > 0
    assert second.manifest.provenance["teacher_cache"] == {"found": steps, "computed": 0}


def test_a_teacher_that_looks_once_teaches_its_features_and_its_answers() -> None:
    both = [{"loss": "features"}, {"loss": "soft"}]
    student = distilled("plain-view", teacher_view="plain", objectives=both)
    other = distilled("same-view", objectives=both)
    assert student.manifest.provenance["teacher_top1_in_training"] > 0
    assert not same_weights(student, other)
    assert same_weights(student, distilled("plain-view", again=True, teacher_view="plain", objectives=both))
    mixing = {**SHORT["augmentation"], "mixup": 0.8}
    mixed = distilled("plain-mixed", teacher_view="plain", objectives=both, augmentation=mixing)
    assert not same_weights(student, mixed)


def test_longer_training_takes_up_what_a_shorter_one_has_kept() -> None:
    short = distilled("short", teacher_cache={}, seed=5)
    long = distilled("long", teacher_cache={}, seed=5, epochs=4)
    assert long.manifest.provenance["teacher_cache"]["found"] == short.manifest.provenance["teacher_cache"]["computed"]


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 9},
        {"batch_size": 40},
        {"augmentation": {"scale": (0.5, 1.0)}},
        {"streams": ({"data": "digits.support"},)},
    ],
)
def test_other_views_find_nothing_in_the_cache(change: dict[str, Any]) -> None:
    distilled("kept", teacher_cache={}, seed=8)
    other = distilled(f"other-{next(iter(change))}", teacher_cache={}, **{"seed": 8, **change})
    assert other.manifest.provenance["teacher_cache"]["found"] == 0


def test_what_decides_no_answer_does_not_part_the_caches() -> None:
    distilled("one-way", teacher_cache={}, seed=11)
    other = distilled(
        "another-way",
        teacher=None,
        teachers=({"model": teacher().id, "weight": 5},),
        model="vit_tiny_patch16_224",  # another mean and deviation, the same canvas
        teacher_cache={},
        seed=11,
    )
    assert other.manifest.provenance["teacher_cache"]["computed"] == 0


def test_check_computes_a_sample_again() -> None:
    distilled("checked", teacher_cache={}, seed=7)
    said = io.StringIO()
    distilled("checked", Context(check=True, progress=progress_for(said)), again=True, teacher_cache={}, seed=7)
    assert "computed again and equal" in said.getvalue()


def test_several_teachers_teach_together() -> None:
    both = ({"model": teacher().id, "weight": 3}, {"model": teacher("other-teacher", seed=1).id})
    student = distilled("of-two", teacher=None, teachers=both, teacher_cache={})
    assert not same_weights(student, distilled("live1"))
    turned = distilled("of-two-turned", teacher=None, teachers=both[::-1], teacher_cache={})
    assert turned.manifest.provenance["teacher_cache"]["found"] == 0


def test_features_of_another_model_teach_a_student_of_other_classes() -> None:
    stranger = workbench().run("load", "stranger-of-features", **VIT, classes=("cat", "dog"))
    student = distilled("from-features", teacher=stranger.id, objectives=({"loss": "features"},))
    assert student.io.classes == tuple("0123456789")


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ({"loss": "features", "student": 7, "teacher": -1}, "the student's model has 2 intermediate layers"),
        ({"loss": "features", "student": 0, "teacher": 9}, "the teacher's model has 5 intermediate layers"),
        ({"loss": "features", "teacher": "cls"}, "the teacher's model has no class token"),
    ],
)
def test_feature_that_is_not_there_is_refused(objective: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        distilled(f"refused-{objective['teacher']}", objectives=(objective,))


def test_weak_teacher_is_mentioned() -> None:
    said = io.StringIO()
    blank = workbench().run("load", "blank", **RESNET, image_size=32, classes_of="digits.support")
    streams = ({"data": "digits.support"},)
    distilled("of-blank", Context(progress=progress_for(said)), teacher=blank.id, streams=streams, epochs=5)
    assert "the teacher is right in only" in said.getvalue()
    assert (
        distilled("of-blank", teacher=blank.id, streams=streams, epochs=5).manifest.provenance[
            "teacher_top1_in_training"
        ]
        < 0.5
    )


@pytest.mark.parametrize("inference", ["mean_logits", "class", "distillation"])
def test_token_student_answers_as_it_is_told(inference: str) -> None:
    mean = distilled("mean-softmax", distillation_token=True)
    other = distilled(f"answers-{inference}", distillation_token=True, inference=inference)
    assert same_weights(mean, other)
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model = model_from_checkpoint(other)
    with torch.no_grad():
        class_logits, distillation_logits = model.model(images)
        expected = {
            "mean_logits": (class_logits + distillation_logits) / 2,
            "class": class_logits,
            "distillation": distillation_logits,
        }
        torch.testing.assert_close(model(images), expected[inference])
        assert not torch.allclose(model(images), model_from_checkpoint(mean)(images))
