"""Losses as pure functions. Logits are (samples, classes); every loss is a mean over the samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

LabelLoss = Callable[[Tensor, Tensor], Tensor]  # of the logits and the targets, both (samples, classes)


def cross_entropy(
    logits: Tensor, targets: Tensor, class_weights: Tensor | None = None, offsets: Tensor | None = None
) -> Tensor:
    """−Σ_c w_c · targets_c · log softmax(logits + offsets)_c, mean over the samples.

    The mean divides by the number of samples, also with weights, as torch does for targets that are probabilities: a
    batch's loss is then the mean of its parts' losses.

    Args:
        targets: probabilities, (samples, classes).
        class_weights: w, (classes,); 1 by default.
        offsets: (classes,), τ · log of each class's frequency for logit adjustment (Menon et al. 2021, eq. 10).
    """
    if offsets is not None:
        logits = logits + offsets.to(logits)
    if class_weights is not None:
        targets = targets * class_weights.to(targets)
    return -(targets * logits.log_softmax(-1)).sum(-1).mean()


def hard_distillation(logits: Tensor, teacher_logits: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """CE(softmax(logits), argmax_c teacher_logits_c), mean over the samples. Touvron et al. 2021 (DeiT), eq. 3.

    Smoothing s gives (1 − s) to the teacher's class and s/classes to every class, as DeiT tries for hard labels.
    """
    return functional.cross_entropy(logits, teacher_logits.argmax(-1), label_smoothing=label_smoothing)


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
    divergence = _kl_divergence((teacher_logits / temperature).log_softmax(-1), (logits / temperature).log_softmax(-1))
    per = logits.shape[-1] if kl_reduction == "mean" else 1
    return divergence * (temperature**2 / per)


def decoupled_distillation(
    logits: Tensor, teacher_logits: Tensor, labels: Tensor, alpha: float, beta: float, temperature: float
) -> Tensor:
    """DKD: τ² · (α · TCKD + β · NCKD), mean over the samples. Zhao et al. 2022, eq. 7.

    TCKD = KL of the two-way distributions (the label, all other classes together); NCKD = KL of the distributions over
    the other classes, renormalized. `labels` (samples,) int64.
    """
    is_label = functional.one_hot(labels, logits.shape[-1]).bool()
    teacher_log, student_log = ((scores / temperature).log_softmax(-1) for scores in (teacher_logits, logits))
    target = _kl_divergence(_two_way(teacher_log, is_label), _two_way(student_log, is_label))
    rest = _kl_divergence(_among_others(teacher_log, is_label), _among_others(student_log, is_label))
    return (alpha * target + beta * rest) * temperature**2


def standardized(logits: Tensor) -> Tensor:
    """(logits − mean) / (standard deviation + 1e-7) of each sample, the deviation unbiased. Sun et al. 2024, eq. 9."""
    centered = logits - logits.mean(-1, keepdim=True)
    return centered / (logits.std(-1, keepdim=True) + 1e-7)


def feature_distance(
    student: Tensor, teacher: Tensor, distance: Literal["cosine", "mse"], standardize: bool = False
) -> Tensor:
    """Distance of features (samples, channels) or maps (samples, channels, height, width) with equally many channels.

    "cosine": 1 − cos of the channel vectors; "mse": squared difference (Romero et al. 2015, FitNets); both mean over
    samples and positions (and channels, for mse). The teacher's map is resized to the student's positions.

    With `standardize`, each channel of the teacher's features is first scaled to mean 0 and variance 1 over these
    samples, as by the batch norm of Miles and Mikolajczyk (2024), which removes the part that all images share. For a
    single sample nothing remains, and the distance is 0.
    """
    teacher = _at_positions_of(student, teacher)
    if standardize and teacher.numel() == teacher.shape[1]:
        return student.sum() * 0.0
    if standardize:
        teacher = functional.batch_norm(teacher, None, None, training=True)
    if distance == "mse":
        return functional.mse_loss(student, teacher)
    return (1 - functional.cosine_similarity(student, teacher, dim=1)).mean()


def attention_transfer(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of attention maps Q/‖Q‖₂, Q = mean over channels of A² flattened over positions.

    Maps are (samples, channels, height, width), of any number of channels; the teacher's is resized to the student's
    positions first. Zagoruyko and Komodakis 2017, eq. 2 with p = 2, averaged over positions as in their code.
    """
    ours, theirs = (_attention(feature_map) for feature_map in (student, _at_positions_of(student, teacher)))
    return (ours - theirs).square().mean()


def _kl_divergence(target_log: Tensor, log: Tensor) -> Tensor:
    return functional.kl_div(log, target_log, reduction="batchmean", log_target=True)


def _two_way(log_probabilities: Tensor, is_label: Tensor) -> Tensor:
    """log of (probability of the label, probability of all other classes), (samples, 2)."""
    others = log_probabilities.masked_fill(is_label, -torch.inf).logsumexp(-1)
    return torch.stack([log_probabilities[is_label], others], -1)


def _among_others(log_probabilities: Tensor, is_label: Tensor) -> Tensor:
    """log of the distribution over the classes except the label, (samples, classes − 1)."""
    samples, classes = log_probabilities.shape
    return log_probabilities[~is_label].view(samples, classes - 1).log_softmax(-1)


def _at_positions_of(student: Tensor, teacher: Tensor) -> Tensor:
    if teacher.ndim == 2 or teacher.shape[2:] == student.shape[2:]:
        return teacher
    return functional.interpolate(teacher, student.shape[2:], mode="bilinear", antialias=True, align_corners=False)


def _attention(maps: Tensor) -> Tensor:
    return functional.normalize(maps.square().mean(1).flatten(1), dim=1)
