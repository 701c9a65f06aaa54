"""What is made of the losses: heads, labels, weights and which samples a term applies to; against timm's task."""

from __future__ import annotations

import pytest
import timm.loss
import timm.task
import torch
from torch import Tensor

from edgevit.configs import (
    AttentionTransfer,
    CrossEntropy,
    DecoupledDistillation,
    FeatureDistillation,
    HardDistillation,
    Objective,
    SoftDistillation,
)
from edgevit.models.distillation_token import TwoLogits
from edgevit.training.distillation.feature_projectors import WithFeatures
from edgevit.training.distillation.teachers import TeacherOutput
from edgevit.training.loop.batches import Batch
from edgevit.training.losses import (
    attention_transfer,
    cross_entropy,
    decoupled_distillation,
    feature_distance,
    hard_distillation,
    soft_distillation,
    standardized,
)
from edgevit.training.objectives import distillation_objective, label_objective, targets_of
from tests.learning import random_logits


def batch_of(labels: list[int], partners: list[int] | None = None, own_share: float = 1.0, done: float = 0.0) -> Batch:
    count = len(labels)
    places = torch.arange(count) if partners is None else torch.tensor(partners)
    return Batch(
        views=(torch.zeros(count, 2, 2, 3, dtype=torch.uint8),),
        labels=torch.tensor(labels),
        streams=torch.zeros(count, dtype=torch.int64),
        samples=torch.arange(count),
        partners=places,
        partner_samples=places,
        partner_labels=torch.tensor(labels)[places],
        own_share=torch.full((count,), own_share),
        rows=torch.arange(count),
        done=done,
    )


def test_label_smoothing_is_timms() -> None:
    logits, labels = random_logits(0).float(), [0, 4, 2, 2, 1, 3]
    targets, labelled = targets_of(batch_of(labels), 5, label_smoothing=0.1)
    assert labelled.all()
    expected = timm.loss.LabelSmoothingCrossEntropy(0.1)(logits, torch.tensor(labels))
    torch.testing.assert_close(cross_entropy(logits, targets), expected)


class FixedLogits(torch.nn.Module):
    """Gives the same logits for any image, as one head or two."""

    def __init__(self, *logits: Tensor) -> None:
        super().__init__()
        self.logits = [one.float() for one in logits]
        self.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
        self.num_classes, self.in_chans = 5, 3

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.logits[0] if len(self.logits) == 1 else tuple(self.logits)

    def set_distilled_training(self, enable: bool) -> None:
        assert enable


@pytest.mark.parametrize(
    ("kind", "term"),
    [("hard", HardDistillation(weight=0.5)), ("soft", SoftDistillation(weight=0.5, temperature=2.0))],
)
def test_objective_is_timms_token_distillation_task(kind: str, term: Objective) -> None:
    """timm's task with DeiT's weights: labels to the class head, the teacher to the distillation head."""
    class_logits, distillation_logits, teacher = (random_logits(seed).float() for seed in (0, 1, 2))
    labels = [0, 4, 2, 2, 1, 3]
    task = timm.task.TokenDistillationTask(
        student_model=FixedLogits(class_logits, distillation_logits),
        teacher_model=FixedLogits(teacher),
        criterion=torch.nn.CrossEntropyLoss(),
        distill_type=kind,
        distill_loss_weight=0.5,
        task_loss_weight=0.5,
        temperature=2.0,
        verbose=False,
    )
    expected = task(torch.zeros(6, 3, 4, 4), torch.tensor(labels))["loss"]
    terms = [CrossEntropy(weight=0.5), term]
    objective = distillation_objective(terms, lambda batch: TeacherOutput(teacher), 5)
    torch.testing.assert_close(objective(TwoLogits(class_logits, distillation_logits), batch_of(labels)), expected)


def test_one_head_learns_all_terms() -> None:
    student, teacher = random_logits(0), random_logits(1)
    terms: list[Objective] = [CrossEntropy(weight=0.25), HardDistillation(weight=2.0)]
    labels = [0, 4, 2, 2, 1, 3]
    expected = 0.25 * torch.nn.functional.cross_entropy(student, torch.tensor(labels)) + 2 * hard_distillation(
        student, teacher
    )
    torch.testing.assert_close(
        distillation_objective(terms, lambda batch: TeacherOutput(teacher), 5)(student, batch_of(labels)), expected
    )


def test_unlabelled_samples_take_only_the_teachers_terms() -> None:
    student, teacher = random_logits(0).requires_grad_(), random_logits(1)
    labels = [0, -1, 2, -1, 1, -1]
    terms = [CrossEntropy()]
    loss = distillation_objective(terms, lambda batch: TeacherOutput(teacher), 5)(student, batch_of(labels))
    torch.testing.assert_close(
        loss,
        torch.nn.functional.cross_entropy(student, torch.tensor(labels), ignore_index=-1).detach(),
        check_dtype=False,
    )
    loss.backward()
    assert student.grad is not None
    assert student.grad[[1, 3, 5]].abs().max() == 0


def test_batch_without_any_label_has_no_label_loss() -> None:
    student = random_logits(0).requires_grad_()
    loss = label_objective(5)(student, batch_of([-1] * 6))
    loss.backward()
    assert loss == 0
    assert student.grad is not None
    assert student.grad.abs().max() == 0


def test_mixed_images_have_mixed_targets_and_none_with_an_unlabelled_partner() -> None:
    targets, labelled = targets_of(batch_of([0, 1, 2, -1], partners=[1, 0, 3, 2], own_share=0.7), 3)
    torch.testing.assert_close(targets[0], torch.tensor([0.7, 0.3, 0.0]))
    assert labelled.tolist() == [True, True, False, False]


LABELS = [0, -1, 2, -1, 1, -1]


def value(term: Objective, done: float = 0.0, labels: list[int] = LABELS) -> Tensor:
    student, teacher = random_logits(0), random_logits(1)
    return distillation_objective([term], lambda batch: TeacherOutput(teacher), 5)(student, batch_of(labels, done=done))


@pytest.mark.parametrize(("samples", "rows"), [("labelled", [0, 2, 4]), ("unlabelled", [1, 3, 5])])
def test_term_applies_to_the_samples_that_it_names(samples: str, rows: list[int]) -> None:
    student, teacher = random_logits(0)[rows], random_logits(1)[rows]
    term = SoftDistillation(weight=3.0, temperature=2.0, samples=samples)
    torch.testing.assert_close(value(term), 3 * soft_distillation(student, teacher, 2.0))


def test_weight_rises_over_the_warm_up() -> None:
    term = HardDistillation(weight=2.0, warmup_fraction=0.2)
    full = 2 * hard_distillation(random_logits(0), random_logits(1))
    for done, share in ((0.0, 0.0), (0.1, 0.5), (0.2, 1.0), (0.9, 1.0)):
        torch.testing.assert_close(value(term, done), share * full)


def test_dkd_applies_to_labelled_samples_and_may_be_standardized() -> None:
    student, teacher = (standardized(random_logits(seed)[[0, 2, 4]]) for seed in (0, 1))
    expected = decoupled_distillation(student, teacher, torch.tensor([0, 2, 1]), 1.0, 8.0, 2.0)
    torch.testing.assert_close(value(DecoupledDistillation(temperature=2.0, standardize=True)), expected)


def test_standardized_soft_distillation() -> None:
    student, teacher = standardized(random_logits(0)), standardized(random_logits(1))
    term = SoftDistillation(weight=9.0, temperature=2.0, standardize=True)
    torch.testing.assert_close(value(term), 9 * soft_distillation(student, teacher, 2.0))


def test_features_are_compared_term_by_term() -> None:
    vectors, maps = [torch.randn(6, 4), torch.randn(6, 4)], [torch.randn(6, 3, 2, 2) for _ in range(4)]
    terms: list[Objective] = [
        CrossEntropy(weight=0.5),
        FeatureDistillation(weight=2.0),
        AttentionTransfer(student=(0, 1), teacher=(2, 3), weight=5.0),
    ]
    logits, labels = random_logits(0).float(), [0, 4, 2, 2, 1, 3]
    outputs = WithFeatures(logits, {1: [vectors[0]], 2: maps[:2]})
    answer = TeacherOutput(None, {1: [vectors[1]], 2: maps[2:]})
    expected = (
        0.5 * torch.nn.functional.cross_entropy(logits, torch.tensor(labels))
        + 2.0 * feature_distance(vectors[0], vectors[1], "cosine")
        + 5.0 * (attention_transfer(maps[0], maps[2]) + attention_transfer(maps[1], maps[3])) / 2
    )
    loss = distillation_objective(terms, lambda batch: answer, 5)(outputs, batch_of(labels))
    torch.testing.assert_close(loss, expected)
