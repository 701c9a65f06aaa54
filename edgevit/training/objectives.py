"""The losses, as pure functions of logits (samples, classes), and what makes one objective of several of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from edgevit.configs import Objective
from edgevit.models.distillation_token import TwoLogits
from edgevit.training.batches import Batch

ObjectiveFunction = Callable[[Tensor | TwoLogits, Batch], Tensor]
Teacher = Callable[[Batch], Tensor]


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """−Σ_c targets_c · log softmax(logits)_c, mean over the samples; `targets` are probabilities (samples, classes)."""
    return -(targets * logits.log_softmax(-1)).sum(-1).mean()


def hard_distillation(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """CE(softmax(logits), argmax_c teacher_logits_c), mean over the samples. Touvron et al. 2021 (DeiT), eq. 3."""
    return functional.cross_entropy(logits, teacher_logits.argmax(-1))


def soft_distillation(
    logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 1.0,
    kl_reduction: Literal["batchmean", "mean"] = "batchmean",
) -> Tensor:
    """τ² · KL(softmax(teacher_logits/τ) ‖ softmax(logits/τ)). Hinton et al. 2015; Touvron et al. 2021, eq. 2.

    "batchmean" sums over classes and takes the mean over samples, which is the equation; "mean" also divides by the
    number of classes, as DeiT's code does.
    """
    divergence = functional.kl_div(
        (logits / temperature).log_softmax(-1),
        (teacher_logits / temperature).log_softmax(-1),
        reduction="batchmean",
        log_target=True,
    )
    per = logits.shape[-1] if kl_reduction == "mean" else 1
    return divergence * (temperature**2 / per)


def label_objective(num_classes: int, label_smoothing: float = 0.0) -> ObjectiveFunction:
    """Cross-entropy with the labels; two heads both learn from them, with equal weight."""

    def objective(outputs: Tensor | TwoLogits, batch: Batch) -> Tensor:
        targets, labelled = targets_of(batch, num_classes, label_smoothing)
        heads = outputs if isinstance(outputs, TwoLogits) else (outputs,)
        return torch.stack([_over(labelled, cross_entropy, logits, targets) for logits in heads]).mean()

    return objective


def distillation_objective(
    terms: Sequence[Objective], teacher: Teacher, num_classes: int, label_smoothing: float = 0.0
) -> ObjectiveFunction:
    """Σ weight · term: labels for the samples that have one, the teacher's terms for all samples.

    The teacher sees the batch's own canvases, mixed if they are. With two heads, labels go to the class head and the
    teacher to the distillation head (DeiT, section 4).
    """

    def objective(outputs: Tensor | TwoLogits, batch: Batch) -> Tensor:
        class_logits, distillation_logits = outputs if isinstance(outputs, TwoLogits) else (outputs, outputs)
        targets, labelled = targets_of(batch, num_classes, label_smoothing)
        teacher_logits = teacher(batch)
        total = class_logits.new_zeros(())
        for term in terms:
            if term.loss == "cross_entropy":
                loss = _over(labelled, cross_entropy, class_logits, targets)
            elif term.loss == "hard":
                loss = hard_distillation(distillation_logits, teacher_logits)
            else:
                loss = soft_distillation(distillation_logits, teacher_logits, term.temperature, term.kl_reduction)
            total = total + term.weight * loss
        return total

    return objective


def targets_of(batch: Batch, num_classes: int, label_smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """The labels as probabilities (samples, classes), mixed as the pictures are, and which samples have them.

    Smoothing s gives (1 − s) to the label and s/classes to every class (Szegedy et al. 2016). A picture mixed with an
    unlabelled one has no label.
    """
    labelled = (batch.labels >= 0) & (batch.labels[batch.partners] >= 0)
    own = functional.one_hot(batch.labels.clamp_min(0), num_classes).float()
    share = batch.own_share.unsqueeze(1)
    mixed = share * own + (1 - share) * own[batch.partners]
    return (1 - label_smoothing) * mixed + label_smoothing / num_classes, labelled


def learning_rate_at(
    step: int, total_steps: int, peak: float, schedule: Literal["cosine", "constant"], warmup_fraction: float
) -> float:
    """The learning rate of step 0, 1, …: a linear rise to `peak`, then constant or half a cosine that ends at 0."""
    warmup_steps = math.ceil(warmup_fraction * total_steps)
    if step < warmup_steps:
        return peak * (step + 1) / (warmup_steps + 1)
    if schedule == "constant":
        return peak
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, total_steps - warmup_steps)))


def _over(chosen: Tensor, loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, targets: Tensor) -> Tensor:
    """The loss over the chosen samples; 0 where none is."""
    return loss(logits[chosen], targets[chosen]) if bool(chosen.any()) else logits.sum() * 0.0
