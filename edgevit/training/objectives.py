"""The objective: a weighted sum of losses, each applied to its samples and its head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from edgevit.configs import (
    AttentionTransfer,
    CrossEntropy,
    DecoupledDistillation,
    FeatureDistillation,
    HardDistillation,
    Objective,
    SoftDistillation,
    TeacherTerm,
)
from edgevit.models.distillation_token import TwoLogits
from edgevit.training.distillation.feature_projectors import WithFeatures
from edgevit.training.distillation.teachers import Teacher
from edgevit.training.loop.batches import Batch, Counts
from edgevit.training.losses import (
    LabelLoss,
    attention_transfer,
    cross_entropy,
    decoupled_distillation,
    feature_distance,
    hard_distillation,
    soft_distillation,
    standardized,
)

Outputs = Tensor | TwoLogits | WithFeatures
ObjectiveFunction = Callable[[Outputs, Batch], Tensor]


def label_objective(
    num_classes: int, label_smoothing: float = 0.0, label_loss: LabelLoss = cross_entropy
) -> ObjectiveFunction:
    """Cross-entropy with the labels; two heads both learn from them, with equal weight."""

    def objective(outputs: Outputs, batch: Batch) -> Tensor:
        targets, labelled = targets_of(batch, num_classes, label_smoothing)
        losses = [_over(labelled, label_loss, head, targets) for head in heads_of(outputs)]
        return torch.stack(losses).mean() * _balance("labelled", batch)

    return objective


def distillation_objective(
    terms: Sequence[Objective],
    teacher: Teacher,
    num_classes: int,
    label_smoothing: float = 0.0,
    label_loss: LabelLoss = cross_entropy,
) -> ObjectiveFunction:
    """Σ weight · term. A term is a mean over its samples, and 0 without any.

    For parts of a batch, each term is scaled so that the mean over the parts, weighted by their numbers of samples, is
    the term of the whole batch: a part with more labels counts for more in terms that need labels.
    The teacher sees the batch's own canvases, mixed if they are. With two heads, labels go to the class head and the
    teacher's logits to the distillation head (DeiT, section 4). `label_loss` is the loss of cross-entropy terms
    alone. It may weigh each class by its number of labels, and a teacher gives probabilities in place of labels.
    """

    def objective(outputs: Outputs, batch: Batch) -> Tensor:
        class_logits, distillation_logits = heads_of(outputs)[0], heads_of(outputs)[-1]
        targets, labelled = targets_of(batch, num_classes, label_smoothing)
        answer = teacher(batch)
        total = class_logits.new_zeros(())
        for index, term in enumerate(terms):
            if isinstance(term, CrossEntropy):
                loss = _over(labelled, label_loss, class_logits, targets)
            elif isinstance(term, (FeatureDistillation, AttentionTransfer)):
                assert isinstance(outputs, WithFeatures)
                pairs = zip(outputs.features[index], answer.features[index], strict=True)
                measure = _feature_measure(term)
                losses = [_over(_chosen(term, labelled), measure, ours, theirs) for ours, theirs in pairs]
                loss = torch.stack(losses).mean()
            else:
                assert answer.logits is not None
                loss = _over(
                    _chosen(term, labelled), _logit_measure(term), distillation_logits, answer.logits, batch.labels
                )
            applies_to = "labelled" if isinstance(term, CrossEntropy) else term.samples
            total = total + _weight(term, batch.done) * _balance(applies_to, batch) * loss
        return total

    return objective


def heads_of(outputs: Outputs) -> tuple[Tensor, ...]:
    """The logits (samples, classes) of each head: one head, or the class head and the distillation head."""
    answer = outputs.answer if isinstance(outputs, WithFeatures) else outputs
    return tuple(answer) if isinstance(answer, TwoLogits) else (answer,)


def targets_of(batch: Batch, num_classes: int, label_smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """The labels as probabilities (samples, classes), mixed like the images, and a mask (samples,) of labelled samples.

    Smoothing s gives (1 − s) to the label and s/classes to every class (Szegedy et al. 2016). An image mixed with an
    unlabelled one has no label.
    """
    own, partners = (
        functional.one_hot(labels.clamp_min(0), num_classes).float() for labels in (batch.labels, batch.partner_labels)
    )
    share = batch.own_share.unsqueeze(1)
    mixed = share * own + (1 - share) * partners
    return (1 - label_smoothing) * mixed + label_smoothing / num_classes, batch.labelled


def _weight(term: Objective, done: float) -> float:
    if isinstance(term, CrossEntropy) or not term.warmup_fraction:
        return term.weight
    return term.weight * min(1.0, done / term.warmup_fraction)


def _chosen(term: TeacherTerm, labelled: Tensor) -> Tensor:
    if term.samples == "all":
        return torch.ones_like(labelled)
    return labelled if term.samples == "labelled" else ~labelled


def _balance(samples: Literal["all", "labelled", "unlabelled"], batch: Batch) -> float:
    """The share of these samples in the part, over their share in the whole batch; 1 for a whole batch."""

    def how_many(counts: Counts) -> int:
        unlabelled = counts.samples - counts.labelled
        return {"all": counts.samples, "labelled": counts.labelled, "unlabelled": unlabelled}[samples]

    if batch.whole is None:
        return 1.0
    here = Counts(len(batch.labels), int(batch.labelled.sum()))
    return how_many(here) * batch.whole.samples / (max(1, how_many(batch.whole)) * here.samples)


def _logit_measure(
    term: HardDistillation | SoftDistillation | DecoupledDistillation,
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The term's loss as a function of (student's logits, teacher's logits, labels)."""

    def measure(logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        if isinstance(term, HardDistillation):
            return hard_distillation(logits, teacher_logits, term.label_smoothing)
        if term.standardize:
            logits, teacher_logits = standardized(logits), standardized(teacher_logits)
        if isinstance(term, SoftDistillation):
            return soft_distillation(logits, teacher_logits, term.temperature, term.kl_reduction)
        return decoupled_distillation(logits, teacher_logits, labels, term.alpha, term.beta, term.temperature)

    return measure


def _feature_measure(term: FeatureDistillation | AttentionTransfer) -> Callable[[Tensor, Tensor], Tensor]:
    """The term's loss as a function of (student's features, teacher's features)."""
    if isinstance(term, AttentionTransfer):
        return attention_transfer
    return partial(feature_distance, distance=term.distance, standardize=term.standardize)


def _over(chosen: Tensor, loss: Callable[..., Tensor], ours: Tensor, *others: Tensor) -> Tensor:
    """The loss over the chosen samples; 0 if there is none."""
    return loss(ours[chosen], *(other[chosen] for other in others)) if bool(chosen.any()) else ours.sum() * 0.0
