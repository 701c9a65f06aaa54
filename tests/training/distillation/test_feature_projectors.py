"""Features from inside models: the same answer as without them, of the shapes that the losses compare."""

from __future__ import annotations

import pytest
import torch

from edgevit.artifacts import IOSpec
from edgevit.configs import AttentionTransfer, CrossEntropy, FeatureDistillation, Objective, SoftDistillation, Tap
from edgevit.context import Context
from edgevit.errors import RecipeError
from edgevit.models import create_model
from edgevit.models.distillation_token import TwoLogits
from edgevit.models.taps import checked_taps, forward_with_taps
from edgevit.training.classifier_learner import ClassifierLearner
from edgevit.training.distillation.feature_projectors import (
    StudentWithProjectors,
    WithFeatures,
    teacher_taps,
    with_projectors,
)
from edgevit.training.distillation.teachers import LiveTeacher
from edgevit.training.loop.batches import Batches, TrainingStream
from edgevit.training.loop.fit import fit
from edgevit.training.objectives import distillation_objective
from tests.learning import blobs, tiny_token_vit, tiny_vit, train_config

STUDENTS = [
    "deit_tiny_patch16_224",
    "tiny_vit_5m_224",
    "efficientvit_b0",
    "edgenext_xx_small",
    "mobilenetv4_conv_small",
    "fastvit_t8",
    "repvit_m0_9",
    "levit_128s",
    "resnet18",
]


@pytest.mark.parametrize("name", STUDENTS)
def test_answer_with_features_is_the_answer_without(name: str) -> None:
    size = 224 if name.startswith("levit") else 64
    built = create_model(name, 5, size)
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    taps, channels = checked_taps(built.module, ["pooled", -1, 0], (size, size), "student")
    with torch.no_grad():
        answer, features = forward_with_taps(built.module, images, taps)
        torch.testing.assert_close(answer, built.module(images))
    assert [feature.shape[1] for feature in features] == channels
    assert [feature.ndim for feature in features] == [2, 4, 4]
    assert features[1].shape[2] <= features[2].shape[2]


def test_pooled_features_are_what_enters_the_classifier() -> None:
    model, images = tiny_vit().module, torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        answer, (pooled, cls) = forward_with_taps(model, images, ["pooled", "cls"])
        torch.testing.assert_close(answer, model.head(pooled))
        torch.testing.assert_close(cls, model.forward_features(images)[:, 0])


@pytest.mark.parametrize(
    ("tap", "message"),
    [(1, "has 1 intermediate layers"), (-2, "has 1 intermediate layers")],
)
def test_layer_that_is_not_there_is_refused(tap: Tap, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        checked_taps(tiny_vit().module, [tap], (16, 16), "teacher")
    assert "teacher" in str(caught.value)


def test_model_without_a_class_token_is_told() -> None:
    with pytest.raises(RecipeError, match="no class token"):
        checked_taps(create_model("resnet18", 3, 32).module, ["cls"], (32, 32), "student")


TERMS: list[Objective] = [
    CrossEntropy(weight=0.5),
    FeatureDistillation(student="pooled", teacher="pooled"),
    SoftDistillation(),
    FeatureDistillation(student=0, teacher=-2, distance="mse"),
    AttentionTransfer(student=(0,), teacher=(1,)),
]


def teacher_for(terms: list[Objective], classes: tuple[str, ...] | None = ("a", "b", "c")) -> LiveTeacher:
    built = create_model("resnet18", 3, 32)
    io = IOSpec.for_classifier(built.preprocess, ("a", "b", "c"))
    return LiveTeacher(built.module, io, classes, torch.device("cpu"), teacher_taps(terms))


@pytest.mark.parametrize("token", [False, True])
def test_vit_learns_features_of_a_resnet_and_comes_back_without_projectors(tmp_path, token: bool) -> None:
    built = tiny_token_vit() if token else tiny_vit()
    teacher = teacher_for(TERMS)
    model = with_projectors(built, TERMS, teacher.channels, seed=0)
    assert isinstance(model, StudentWithProjectors)
    assert {name: tuple(p.weight.shape) for name, p in model.projectors.items()} == {  # type: ignore[arg-type]
        "1": (512, 24),
        "3": (256, 24, 1, 1),
    }
    before = {key: value.clone() for key, value in model.projectors.state_dict().items()}
    trained, _ = fit(
        ClassifierLearner(model, distillation_objective(TERMS, teacher, 3), built.preprocess),
        [TrainingStream(blobs())],
        train_config(epochs=1),
        Context(work=tmp_path),
        out=tmp_path,
    )
    assert trained is built.module
    assert not torch.equal(before["1.weight"], model.projectors["1"].weight)  # type: ignore[arg-type]
    assert trained(torch.zeros(1, 3, 16, 16)).shape == (1, 3)


def test_both_heads_answer_beside_the_features() -> None:
    built = tiny_token_vit()
    model = with_projectors(built, TERMS, teacher_for(TERMS).channels, seed=0)
    outputs = model.train()(torch.randn(2, 3, 16, 16))
    assert isinstance(outputs, WithFeatures)
    assert isinstance(outputs.answer, TwoLogits)
    assert isinstance(model.eval()(torch.randn(2, 3, 16, 16)), torch.Tensor)


def test_projectors_are_a_function_of_the_seed() -> None:
    channels = teacher_for(TERMS).channels
    one, same, other = (with_projectors(tiny_vit(), TERMS, channels, seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(one["projectors.1.weight"], same["projectors.1.weight"])
    assert not torch.equal(one["projectors.1.weight"], other["projectors.1.weight"])


def test_teacher_of_features_alone_needs_no_classes_in_common() -> None:
    terms: list[Objective] = [FeatureDistillation()]
    batch = Batches([TrainingStream(blobs())], tiny_vit().preprocess, None, 4, 1, 0)[0]
    answer = teacher_for(terms, classes=None)(batch)
    assert answer.logits is None
    assert answer.features[0][0].shape == (4, 512)
    assert not answer.features[0][0].requires_grad


def test_nothing_is_wrapped_where_no_feature_is_compared() -> None:
    built = tiny_vit()
    assert with_projectors(built, [CrossEntropy()], {}, 0) is built.module


def test_teacher_with_two_heads_answers_with_one_beside_its_features() -> None:
    built = tiny_token_vit()
    io = IOSpec.for_classifier(built.preprocess, ("a", "b", "c"))
    batch = Batches([TrainingStream(blobs())], built.preprocess, None, 4, 1, 0)[0]
    taps = teacher_taps([FeatureDistillation()])
    answer = LiveTeacher(built.module, io, ("a", "b", "c"), torch.device("cpu"), taps)(batch)
    plain = LiveTeacher(built.module, io, ("a", "b", "c"), torch.device("cpu"))(batch)
    assert answer.logits is not None
    torch.testing.assert_close(answer.logits, plain.logits)
    assert answer.features[0][0].shape == (4, 24)
