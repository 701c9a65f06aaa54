"""Each loss against a few lines in float64, against timm or its authors' formula, and by its properties."""

from __future__ import annotations

from typing import Literal

import pytest
import timm.loss
import torch
from torch import Tensor

from edgevit.training.losses import (
    attention_transfer,
    cross_entropy,
    decoupled_distillation,
    feature_distance,
    hard_distillation,
    soft_distillation,
    standardized,
)
from tests.learning import random_logits


def test_cross_entropy_is_minus_the_mean_log_probability_of_the_target() -> None:
    logits, targets = random_logits(0), random_logits(1).softmax(-1)
    probabilities = logits.exp() / logits.exp().sum(1, keepdim=True)
    expected = -sum(t * p.log() for t, p in zip(targets.flatten(), probabilities.flatten(), strict=True)) / 6
    torch.testing.assert_close(cross_entropy(logits, targets), expected)
    torch.testing.assert_close(cross_entropy(logits, targets), timm.loss.SoftTargetCrossEntropy()(logits, targets))


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


def test_smoothed_hard_distillation_is_timms_label_smoothing() -> None:
    student, teacher = random_logits(0), random_logits(1)
    expected = timm.loss.LabelSmoothingCrossEntropy(0.1)(student, teacher.argmax(-1))
    torch.testing.assert_close(hard_distillation(student, teacher, 0.1), expected)


LABELS = torch.tensor([0, 4, 2, 2, 1, 3])


def naive_dkd(student: Tensor, teacher: Tensor, alpha: float, beta: float, tau: float) -> Tensor:
    """Sample by sample, with plain probabilities: eq. 7 of the paper."""
    total = torch.zeros((), dtype=torch.float64)
    for s, t, y in zip(student, teacher, LABELS.tolist(), strict=True):
        p, q = (t / tau).softmax(-1), (s / tau).softmax(-1)
        rest = [c for c in range(5) if c != y]
        tckd = p[y] * (p[y] / q[y]).log() + (1 - p[y]) * ((1 - p[y]) / (1 - q[y])).log()
        p_rest, q_rest = p[rest] / (1 - p[y]), q[rest] / (1 - q[y])
        total = total + tau**2 * (alpha * tckd + beta * (p_rest * (p_rest / q_rest).log()).sum())
    return total / len(student)


@pytest.mark.parametrize(("alpha", "beta", "tau"), [(1.0, 8.0, 4.0), (0.0, 1.0, 1.0), (1.0, 0.0, 2.0)])
def test_dkd_is_the_papers_sum(alpha: float, beta: float, tau: float) -> None:
    student, teacher = random_logits(0), random_logits(1)
    loss = decoupled_distillation(student, teacher, LABELS, alpha, beta, tau)
    torch.testing.assert_close(loss, naive_dkd(student, teacher, alpha, beta, tau))


def test_dkd_recovers_the_divergence_where_beta_is_the_teachers_rest() -> None:
    """KL = TCKD + (1 − p_y)·NCKD (eq. 5), sample by sample."""
    student, teacher = random_logits(0), random_logits(1)
    for n in range(6):
        rest = 1 - float(teacher[n].softmax(-1)[LABELS[n]])
        one = slice(n, n + 1)
        torch.testing.assert_close(
            decoupled_distillation(student[one], teacher[one], LABELS[one], 1.0, rest, 1.0),
            soft_distillation(student[one], teacher[one]),
        )


def test_dkd_survives_a_teacher_that_is_certain() -> None:
    teacher = torch.full((6, 5), -200.0).scatter_(1, LABELS[:, None], 200.0)
    student = random_logits(0).float().requires_grad_()
    loss = decoupled_distillation(student, teacher, LABELS, 1.0, 8.0, 1.0)
    loss.backward()
    assert torch.isfinite(loss)
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


def test_standardized_logits_have_mean_0_and_deviation_1() -> None:
    z = standardized(random_logits(0))
    torch.testing.assert_close(z.mean(-1), torch.zeros(6, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(z.std(-1), torch.ones(6, dtype=torch.float64), atol=1e-5, rtol=0)
    torch.testing.assert_close(standardized(3 * random_logits(0) + 5), z, atol=1e-5, rtol=0)
    assert torch.isfinite(standardized(torch.ones(2, 5))).all()


def test_cosine_distance_looks_at_direction_alone() -> None:
    student, teacher = random_logits(0), random_logits(1)
    pairs = list(zip(student, teacher, strict=True))
    cos = [(s @ t) / (s.norm() * t.norm()) for s, t in pairs]
    torch.testing.assert_close(feature_distance(student, teacher, "cosine"), 1 - torch.stack(cos).mean())
    torch.testing.assert_close(feature_distance(student, 7 * student, "cosine"), torch.tensor(0.0).double())
    torch.testing.assert_close(
        feature_distance(student, teacher, "mse"), torch.stack([(s - t) @ (s - t) for s, t in pairs]).sum() / 30
    )


def test_what_all_images_share_counts_for_nothing_once_a_teachers_channels_are_standardized() -> None:
    student, teacher = random_logits(0), random_logits(1)
    z = (teacher - teacher.mean(0)) / (teacher.var(0, unbiased=False) + 1e-5).sqrt()
    for distance in ("cosine", "mse"):
        expected = feature_distance(student, z, distance)
        torch.testing.assert_close(feature_distance(student, teacher, distance, standardize=True), expected)
    scales = torch.linspace(50, 90, teacher.shape[1], dtype=teacher.dtype)
    plain, moved = (
        feature_distance(student, one, "cosine", standardize=True) for one in (teacher, scales * teacher + scales)
    )
    torch.testing.assert_close(moved, plain, atol=1e-5, rtol=0)
    maps = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    flat = maps.transpose(1, 3).reshape(-1, 3)
    ours = torch.zeros_like(maps)
    torch.testing.assert_close(
        feature_distance(ours, maps, "mse", standardize=True),
        feature_distance(torch.zeros_like(flat), flat, "mse", standardize=True),
    )


@pytest.mark.parametrize("distance", ["cosine", "mse"])
def test_a_single_sample_has_nothing_beside_what_all_share(distance: Literal["cosine", "mse"]) -> None:
    student = random_logits(0)[:1].requires_grad_()
    loss = feature_distance(student, random_logits(1)[:1], distance, standardize=True)
    loss.backward()
    assert loss == 0
    assert student.grad is not None
    assert not student.grad.any()


def test_maps_are_compared_at_the_students_positions() -> None:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(2, 3, 4, 4, generator=generator)
    teacher = torch.nn.functional.interpolate(student, (8, 8), mode="nearest")
    assert feature_distance(student, teacher, "mse") < feature_distance(student, teacher.flip(-1), "mse")
    constant = torch.full((2, 3, 8, 8), 2.0)
    torch.testing.assert_close(feature_distance(torch.zeros(2, 3, 4, 4), constant, "mse"), torch.tensor(4.0))


def test_attention_transfer_is_its_authors_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, c, 4, 4, generator=generator, dtype=torch.float64) for c in (3, 5))

    def at(x: Tensor) -> Tensor:  # at() of the authors' utils.py
        return torch.nn.functional.normalize(x.pow(2).mean(1).view(x.size(0), -1))

    torch.testing.assert_close(attention_transfer(student, teacher), (at(student) - at(teacher)).pow(2).mean())
    assert attention_transfer(student, -3 * student) < 1e-12


def test_gradients_of_the_other_losses_agree_with_finite_differences() -> None:
    student, teacher, labels = random_logits(0, 2, 3).requires_grad_(), random_logits(1, 2, 3), torch.tensor([0, 2])
    assert torch.autograd.gradcheck(lambda x: decoupled_distillation(x, teacher, labels, 1.0, 8.0, 2.0), (student,))
    assert torch.autograd.gradcheck(lambda x: feature_distance(x, teacher, "cosine"), (student,))
    assert torch.autograd.gradcheck(lambda x: soft_distillation(standardized(x), teacher), (student,))
