"""Corrections for classes of unequal size, against scikit-learn, PyTorch and the formulas of the papers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional

from edgevit.configs import STAGES, CrossEntropy, SoftDistillation
from edgevit.errors import DataError
from edgevit.training.class_balance import balanced_weights, effective_weights
from edgevit.training.distillation.teachers import TeacherOutput
from edgevit.training.loop.batches import TrainingStream
from edgevit.training.loop.setup import label_loss
from edgevit.training.losses import cross_entropy, soft_distillation
from edgevit.training.objectives import distillation_objective, label_objective, targets_of
from tests.learning import blobs, random_logits, train_config, unbalanced_blobs
from tests.training.test_objectives import batch_of

LABELS = [0] * 8 + [1] * 3 + [2]
COUNTS = np.array([8.0, 3.0, 1.0])


def test_balanced_weights_are_scikit_learns() -> None:
    expected = compute_class_weight("balanced", classes=np.arange(3), y=np.array(LABELS))
    np.testing.assert_allclose(balanced_weights(COUNTS), expected, rtol=1e-12)


@pytest.mark.parametrize("beta", [0.5, 0.9, 0.999])
def test_effective_weights_are_inverse_to_the_effective_number(beta: float) -> None:
    weights = effective_weights(COUNTS, beta)
    numbers = [sum(beta**power for power in range(int(count))) for count in COUNTS]  # (1 − βⁿ) / (1 − β)
    np.testing.assert_allclose(weights * numbers, weights[0] * numbers[0], rtol=1e-10)
    assert (weights * COUNTS).sum() == pytest.approx(COUNTS.sum())


def test_effective_weights_lie_between_equal_and_balanced() -> None:
    np.testing.assert_array_equal(effective_weights(COUNTS, 0.0), np.ones(3))
    np.testing.assert_allclose(effective_weights(COUNTS, 1 - 1e-9), balanced_weights(COUNTS), rtol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_weighted_loss_is_pytorchs(smoothing: float) -> None:
    logits, labels = random_logits(0), torch.tensor([0, 4, 2, 2, 1, 3])
    weights = torch.tensor([0.5, 1.0, 3.0, 0.2, 1.7], dtype=torch.float64)
    targets = targets_of(batch_of(labels.tolist()), 5, smoothing)[0].double()
    expected = functional.cross_entropy(logits, labels, weights, reduction="sum", label_smoothing=smoothing) / 6
    torch.testing.assert_close(cross_entropy(logits, targets, weights), expected, atol=1e-6, rtol=1e-6)


def test_weights_of_a_mixed_image_are_those_of_both_labels() -> None:
    logits, weights, partners = random_logits(0), torch.tensor([1.0, 2, 3, 4, 5]).double(), [1, 2, 3, 4, 5, 0]
    batch = batch_of([0, 4, 2, 2, 1, 3], partners, own_share=0.7)
    mixed = cross_entropy(logits, targets_of(batch, 5)[0], weights)
    losses = [
        share * functional.cross_entropy(logits, labels, weights, reduction="sum") / 6
        for share, labels in ((0.7, batch.labels), (0.3, batch.partner_labels))
    ]
    torch.testing.assert_close(mixed, sum(losses, torch.zeros(())).double(), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("tau", [0.5, 1.0])
def test_adjusted_loss_is_menons(tau: float) -> None:
    """Equation 10: log[1 + Σ over y' ≠ y of (π_y' / π_y)^τ · exp(f_y' − f_y)]."""
    logits, labels = random_logits(1, samples=12, classes=3), torch.tensor(LABELS)
    loss = label_loss(train_config(logit_adjustment=tau), [TrainingStream(unbalanced_blobs())])
    shares, expected = COUNTS / COUNTS.sum(), []
    for scores, label in zip(logits.tolist(), LABELS, strict=True):
        others = [other for other in range(3) if other != label]
        terms = [(shares[y] / shares[label]) ** tau * math.exp(scores[y] - scores[label]) for y in others]
        expected.append(math.log1p(sum(terms)))
    got = loss(logits, functional.one_hot(labels, 3).double())
    assert float(got) == pytest.approx(sum(expected) / 12, rel=1e-9)


def test_the_loss_of_a_batch_is_the_mean_of_its_parts() -> None:
    objective = label_objective(
        3, label_loss=label_loss(train_config(class_weights="balanced"), [TrainingStream(unbalanced_blobs())])
    )
    logits, batch = random_logits(2, samples=12, classes=3).float(), batch_of([*LABELS[:-2], -1, 2])
    parts = [batch.part(number, 5) for number in range(5)]
    losses = [objective(logits[number::5], part) * len(part.labels) / 12 for number, part in enumerate(parts)]
    torch.testing.assert_close(sum(losses, torch.zeros(())), objective(logits, batch))


def test_the_teachers_term_knows_no_weights() -> None:
    logits, teacher, labels = random_logits(3).float(), random_logits(4).float(), [0, 4, 2, 2, 1, 3]
    terms = (CrossEntropy(weight=0.25), SoftDistillation(weight=0.75))
    weights = torch.tensor([1.0, 2, 3, 4, 5])

    def loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return cross_entropy(logits, targets, weights)

    got = distillation_objective(terms, lambda batch: TeacherOutput(teacher), 5, label_loss=loss)(
        logits, batch_of(labels)
    )
    labelled = functional.cross_entropy(logits, torch.tensor(labels), weights, reduction="sum") / 6
    torch.testing.assert_close(got, 0.25 * labelled + 0.75 * soft_distillation(logits, teacher))


def test_without_an_option_the_loss_is_the_plain_one() -> None:
    assert label_loss(train_config(), [TrainingStream(blobs())]) is cross_entropy
    assert label_loss(train_config(sampling="balanced"), [TrainingStream(blobs())]) is cross_entropy


@pytest.mark.parametrize("option", [{"class_weights": "balanced"}, {"logit_adjustment": 1.0}])
def test_a_class_without_images_is_refused(option: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"(?s)without training images.*got.*c"):
        label_loss(train_config(**option), [TrainingStream(blobs().subset(np.arange(16)))])


SOFT = {"teacher": "t", "model": "m", "streams": [{"data": "d"}], "objectives": [{"loss": "soft"}]}
HEAD = {"model": "m", "support": "s"}


@pytest.mark.parametrize(
    ("stage", "fields", "expected"),
    [
        ("train", {"class_weights": "balanced", "sampling": "balanced"}, "twice: give one of them"),
        ("train", {"class_weights": "balanced", "logit_adjustment": 1}, "twice: give one of them"),
        ("train", {"sampling": "balanced", "logit_adjustment": 1}, "twice: give one of them"),
        (
            "train",
            {"class_weights": "balanced", "class_weights_beta": 0.9},
            "goes with class_weights: effective_number",
        ),
        ("train", {"class_weights": "effective_number", "class_weights_beta": 1}, "below 1"),
        ("distill", {**SOFT, "class_weights": "balanced"}, "no term is one: add cross_entropy"),
        ("distill", {**SOFT, "logit_adjustment": 1}, "no term is one: add cross_entropy"),
        ("fewshot", {**HEAD, "method": "knn", "class_weights": "balanced"}, "knn has none"),
        ("fewshot", {**HEAD, "method": "nearest_centroid", "logit_adjustment": 1}, "nearest_centroid has none"),
        ("fewshot", {**HEAD, "method": "ridge", "sampling": "balanced"}, "goes with method: finetune"),
    ],
)
def test_options_that_mean_nothing_are_refused(stage: str, fields: dict[str, Any], expected: str) -> None:
    fields = {"model": "m", "data": "d", **fields} if stage == "train" else fields
    with pytest.raises(ValidationError, match=expected):
        STAGES[stage].model_validate({"stage": stage, "id": "x", **fields})


@pytest.mark.parametrize(
    ("stage", "fields"),
    [
        ("distill", {**SOFT, "sampling": "balanced"}),
        ("distill", {**SOFT, "objectives": [{"loss": "soft"}, {"loss": "cross_entropy"}], "logit_adjustment": 1}),
        ("fewshot", {**HEAD, "class_weights": "balanced"}),
        ("fewshot", {**HEAD, "method": "finetune", "sampling": "balanced"}),
        ("fewshot", {**HEAD, "method": "auto", "class_weights": "effective_number", "class_weights_beta": 0.9}),
    ],
)
def test_options_that_mean_something_are_taken(stage: str, fields: dict[str, Any]) -> None:
    STAGES[stage].model_validate({"stage": stage, "id": "x", **fields})
