"""Each loss against three lines in float64, against timm, and by its properties."""

from __future__ import annotations

import math

import pytest
import timm.loss
import timm.task
import torch
from torch import Tensor

from edgevit.configs import Objective
from edgevit.models.distillation_token import TwoLogits
from edgevit.training.batches import Batch
from edgevit.training.objectives import (
    cross_entropy,
    distillation_objective,
    hard_distillation,
    label_objective,
    learning_rate_at,
    soft_distillation,
    targets_of,
)


def random_logits(seed: int, samples: int = 6, classes: int = 5) -> Tensor:
    return 3 * torch.randn(samples, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def batch_of(labels: list[int], partners: list[int] | None = None, own_share: float = 1.0) -> Batch:
    count = len(labels)
    return Batch(
        canvases=torch.zeros(count, 2, 2, 3, dtype=torch.uint8),
        labels=torch.tensor(labels),
        streams=torch.zeros(count, dtype=torch.int64),
        samples=torch.arange(count),
        partners=torch.arange(count) if partners is None else torch.tensor(partners),
        own_share=torch.full((count,), own_share),
    )


def test_cross_entropy_is_minus_the_mean_log_probability_of_the_target() -> None:
    logits, targets = random_logits(0), random_logits(1).softmax(-1)
    probabilities = logits.exp() / logits.exp().sum(1, keepdim=True)
    expected = -sum(t * p.log() for t, p in zip(targets.flatten(), probabilities.flatten(), strict=True)) / 6
    torch.testing.assert_close(cross_entropy(logits, targets), expected)
    torch.testing.assert_close(cross_entropy(logits, targets), timm.loss.SoftTargetCrossEntropy()(logits, targets))


def test_label_smoothing_is_timms() -> None:
    logits, labels = random_logits(0).float(), [0, 4, 2, 2, 1, 3]
    targets, labelled = targets_of(batch_of(labels), 5, label_smoothing=0.1)
    assert labelled.all()
    expected = timm.loss.LabelSmoothingCrossEntropy(0.1)(logits, torch.tensor(labels))
    torch.testing.assert_close(cross_entropy(logits, targets), expected)


def test_hard_distillation_is_cross_entropy_with_the_teachers_argmax() -> None:
    student, teacher = random_logits(0), random_logits(1)
    log_probabilities = student - student.exp().sum(1, keepdim=True).log()
    expected = -sum(log_probabilities[n, int(teacher[n].argmax())] for n in range(6)) / 6
    torch.testing.assert_close(hard_distillation(student, teacher), expected)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize(("reduction", "divisor"), [("batchmean", 6), ("mean", 6 * 5)])
def test_soft_distillation_is_the_scaled_divergence(temperature: float, reduction: str, divisor: int) -> None:
    student, teacher = random_logits(0), random_logits(1)
    p, q = (teacher / temperature).softmax(-1), (student / temperature).softmax(-1)
    expected = temperature**2 * (p * (p.log() - q.log())).sum() / divisor
    torch.testing.assert_close(soft_distillation(student, teacher, temperature, reduction), expected)  # type: ignore[arg-type]


def test_soft_distillation_is_zero_at_equality_and_positive_elsewhere() -> None:
    student, teacher = random_logits(0), random_logits(1)
    assert soft_distillation(student, student + 7.0, 2.0).abs() < 1e-12
    assert soft_distillation(student, teacher, 2.0) > 0


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_gradient_of_soft_distillation_is_the_difference_of_the_softmaxes(temperature: float) -> None:
    student, teacher = random_logits(0).requires_grad_(), random_logits(1)
    soft_distillation(student, teacher, temperature).backward()
    expected = temperature * ((student / temperature).softmax(-1) - (teacher / temperature).softmax(-1)) / 6
    torch.testing.assert_close(student.grad, expected.detach())


def test_gradients_agree_with_finite_differences() -> None:
    student, teacher = random_logits(0, 2, 3).requires_grad_(), random_logits(1, 2, 3)
    assert torch.autograd.gradcheck(lambda logits: soft_distillation(logits, teacher, 2.0, "mean"), (student,))
    assert torch.autograd.gradcheck(lambda logits: hard_distillation(logits, teacher), (student,))
    assert torch.autograd.gradcheck(lambda logits: cross_entropy(logits, teacher.softmax(-1)), (student,))


class FixedLogits(torch.nn.Module):
    """Gives the same logits for any picture, as one head or two."""

    def __init__(self, *logits: Tensor) -> None:
        super().__init__()
        self.logits = [one.float() for one in logits]
        self.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
        self.num_classes, self.in_chans = 5, 3

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.logits[0] if len(self.logits) == 1 else tuple(self.logits)

    def set_distilled_training(self, enable: bool) -> None:
        assert enable


@pytest.mark.parametrize(("kind", "loss"), [("hard", "hard"), ("soft", "soft")])
def test_objective_is_timms_token_distillation_task(kind: str, loss: str) -> None:
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
    terms = [
        Objective(loss="cross_entropy", weight=0.5),
        Objective(loss=loss, weight=0.5, temperature=2.0),  # type: ignore[arg-type]
    ]
    objective = distillation_objective(terms, lambda batch: teacher, 5)
    torch.testing.assert_close(objective(TwoLogits(class_logits, distillation_logits), batch_of(labels)), expected)


def test_one_head_learns_all_terms() -> None:
    student, teacher = random_logits(0), random_logits(1)
    terms = [Objective(loss="cross_entropy", weight=0.25), Objective(loss="hard", weight=2.0)]
    labels = [0, 4, 2, 2, 1, 3]
    expected = 0.25 * torch.nn.functional.cross_entropy(student, torch.tensor(labels)) + 2 * hard_distillation(
        student, teacher
    )
    torch.testing.assert_close(
        distillation_objective(terms, lambda batch: teacher, 5)(student, batch_of(labels)), expected
    )


def test_unlabelled_samples_take_only_the_teachers_terms() -> None:
    student, teacher = random_logits(0).requires_grad_(), random_logits(1)
    labels = [0, -1, 2, -1, 1, -1]
    terms = [Objective(loss="cross_entropy")]
    loss = distillation_objective(terms, lambda batch: teacher, 5)(student, batch_of(labels))
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


def test_mixed_pictures_have_mixed_targets_and_none_with_an_unlabelled_partner() -> None:
    targets, labelled = targets_of(batch_of([0, 1, 2, -1], partners=[1, 0, 3, 2], own_share=0.7), 3)
    torch.testing.assert_close(targets[0], torch.tensor([0.7, 0.3, 0.0]))
    assert labelled.tolist() == [True, True, False, False]


def test_learning_rate_rises_then_follows_half_a_cosine() -> None:
    rates = [learning_rate_at(step, 100, 1.0, "cosine", 0.1) for step in range(101)]
    assert rates[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0.0, abs=1e-12)
    assert learning_rate_at(99, 100, 1.0, "constant", 0.1) == 1.0
    assert all(math.isfinite(rate) for rate in (learning_rate_at(0, 1, 1.0, "cosine", w) for w in (0.0, 0.5, 1.0)))
