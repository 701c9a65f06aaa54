"""Losses of self-supervised pre-training, as in the papers, and measures of collapse.

Outputs are (views, samples, dimensions). A loss is a mean over the samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def nt_xent(own: Tensor, of_all_ranks: Tensor, samples: Tensor, first_row: int, temperature: float) -> Tensor:
    """Cross-entropy of each view's other view among all other views, by cosine similarity over the temperature.

    Chen et al. 2020 (SimCLR), eq. 1, as a mean over the views in `own`. Two passes over the images may meet in a batch:
    further views of a view's own image are left out.

    Args:
        own: outputs of two views of this rank's samples, (2, n, dimensions).
        of_all_ranks: outputs of two views of the samples of all ranks, (2, N, dimensions).
        samples: the image of each of the N samples, (N,).
        first_row: the place of this rank's first sample among the N samples.
    """
    queries, keys = (functional.normalize(outputs.flatten(0, 1), dim=1) for outputs in (own, of_all_ranks))
    rows = torch.arange(own.shape[1], device=own.device) + first_row
    other = torch.cat([rows + len(samples), rows])
    is_own = (samples[rows].unsqueeze(1) == samples).repeat(2, 2).scatter(1, other.unsqueeze(1), False)
    logits = (queries @ keys.T / temperature).masked_fill(is_own, -torch.inf)
    return functional.cross_entropy(logits, other)


def dino_cross_entropy(
    student: Tensor, teacher: Tensor, center: Tensor, student_temperature: float, teacher_temperature: float
) -> Tensor:
    """Cross-entropy of the student's answer for each view with the teacher's answer for each other global view.

    The teacher's logits are centered and sharpened. Caron et al. 2021 (DINO), eq. 3 and section 3.1, as a mean over
    the pairs of views.

    Args:
        student: logits for all views; the global views come first, (views, n, prototypes).
        teacher: logits for the global views, (global views, n, prototypes).
        center: (prototypes,).
    """
    targets = ((teacher - center) / teacher_temperature).softmax(-1)
    log_answers = (student / student_temperature).log_softmax(-1)
    terms = [
        -(target * log_answer).sum(-1).mean()
        for of_teacher, target in enumerate(targets)
        for of_student, log_answer in enumerate(log_answers)
        if of_student != of_teacher
    ]
    return torch.stack(terms).mean()


def region_cross_entropy(
    student: Tensor,
    teacher: Tensor,
    student_regions: Tensor,
    teacher_regions: Tensor,
    center: Tensor,
    student_temperature: float,
    teacher_temperature: float,
) -> Tensor:
    """Cross-entropy of the student's answer for each region with the teacher's answer for the most similar region.

    The regions are compared by the cosine of their features. Li et al. 2022 (EsViT), section 3.2, as a mean over the
    regions of the student's view and over the samples.

    Args:
        student, teacher: logits for the regions of two views, (n, student's regions, prototypes) and (n, teacher's
            regions, prototypes).
        student_regions, teacher_regions: the features of the regions, (n, regions, channels) each.
        center: (prototypes,).
    """
    with torch.no_grad():
        own, other = (functional.normalize(regions, dim=-1) for regions in (student_regions, teacher_regions))
        most_similar = (own @ other.transpose(1, 2)).argmax(-1)
        targets = ((teacher - center) / teacher_temperature).softmax(-1)
        targets = targets.gather(1, most_similar.unsqueeze(-1).expand(-1, -1, targets.shape[-1]))
    return -(targets * (student / student_temperature).log_softmax(-1)).sum(-1).mean()


def masked_patch_error(predicted: Tensor, images: Tensor, masked: Tensor, patch: tuple[int, int]) -> Tensor:
    """Mean squared error over the pixels of the masked patches; each patch of the target has mean 0 and variance 1.

    He et al. 2022 (MAE), section 3, with normalized pixels (table 1d).

    Args:
        predicted: (n, patches, pixels · 3).
        images: (n, 3, height, width).
        masked: the indices of the masked patches, (n, masked patches).
    """
    patches = patches_of(images, patch)
    assert predicted.shape == patches.shape, f"{tuple(predicted.shape)} predicted, {tuple(patches.shape)} expected"
    variance, mean = torch.var_mean(patches, -1, keepdim=True)
    target = (patches - mean) / (variance + 1e-6).sqrt()
    index = masked.unsqueeze(-1).expand(-1, -1, target.shape[-1])
    return functional.mse_loss(predicted.gather(1, index), target.gather(1, index))


def patches_of(images: Tensor, patch: tuple[int, int]) -> Tensor:
    """Images (n, 3, height, width) as patches (n, patches, pixels · 3), row by row."""
    count, channels, height, width = images.shape
    tall, wide = patch
    cut = images.reshape(count, channels, height // tall, tall, width // wide, wide)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(count, -1, tall * wide * channels)


def byol_distance(predicted: Tensor, target: Tensor) -> Tensor:
    """2 − 2·cos between the prediction from one view and the target of the other view, summed over both directions.

    Grill et al. 2020 (BYOL), eq. 2 and the symmetric loss below it. Both are (2, n, dimensions).
    """
    cosines = functional.cosine_similarity(predicted, target.flip(0), dim=-1)
    return (2 - 2 * cosines).sum(0).mean()


def info_nce(queries: Tensor, keys: Tensor, queue: Tensor, is_own: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of each query's own key among this key and the keys of the queue, by cosine similarity.

    He et al. 2020 (MoCo), eq. 1.

    Args:
        queries, keys: (n, dimensions).
        queue: keys of earlier batches, (length, dimensions).
        is_own: whether a key in the queue is of the query's own image, (n, length). Such a key is left out.
    """
    queries, keys, queue = (functional.normalize(vectors, dim=1) for vectors in (queries, keys, queue))
    negatives = (queries @ queue.T).masked_fill(is_own, -torch.inf)
    logits = torch.cat([(queries * keys).sum(1, keepdim=True), negatives], 1) / temperature
    return functional.cross_entropy(logits, torch.zeros(len(queries), dtype=torch.int64, device=queries.device))


def noise_contrastive(outputs: Tensor, positives: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """−log h of the positive − Σ log(1 − h) of the negatives, where h is a softmax of cosines over the temperature.

    Misra and van der Maaten 2020 (PIRL), section 3, as a mean over the samples: an output finds the memory of its own
    image among the memories of others.

    Args:
        outputs: (n, dimensions).
        positives: memories of length 1, (n, dimensions).
        negatives: memories of other images of length 1, (n, negatives, dimensions); a row of zeros is left out.
    """
    directions = functional.normalize(outputs, dim=-1)
    of_negatives = (negatives @ directions.unsqueeze(-1)).squeeze(-1).masked_fill(~negatives.any(-1), -torch.inf)
    cosines = torch.cat([(positives * directions).sum(-1, keepdim=True), of_negatives], 1)
    log_h = (cosines / temperature).log_softmax(-1)
    rejected = torch.log1p(-log_h[:, 1:].exp().clamp_max(1 - torch.finfo(outputs.dtype).eps))
    return -(log_h[:, 0] + rejected.sum(-1)).mean()


def weighted_by_uncertainty(of_tasks: Sequence[Tensor], log_variances: Tensor, factors: Sequence[float]) -> Tensor:
    """Σ f · exp(−s) · loss + s/2 over the tasks, where s = log σ² is trained (Kendall et al. 2018, section 3.2).

    Args:
        of_tasks: the loss of each task.
        log_variances: s of each task, (tasks,).
        factors: f of each task: 1/2 for a regression, 1 for a classification.
    """
    terms = zip(of_tasks, log_variances, factors, strict=True)
    return torch.stack([factor * (-s).exp() * loss + s / 2 for loss, s, factor in terms]).sum()


@torch.no_grad()
def spread(outputs: Tensor) -> Tensor:
    """Standard deviation of normalized outputs (n, dimensions) over the samples, times √dimensions.

    0 where all outputs are alike, and 1 where they point in all directions (Chen and He 2021, SimSiam, section 4.1).
    """
    directions = functional.normalize(outputs, dim=1)
    return directions.std(0, correction=0).mean() * math.sqrt(outputs.shape[1])


@torch.no_grad()
def rank(outputs: Tensor) -> Tensor:
    """Number of dimensions that outputs (n, dimensions) fill: the participation ratio (Σλ)² / Σλ².

    λ are the eigenvalues of their covariance. Gao et al. 2017. It is 0 where all outputs are alike.
    """
    centered = outputs - outputs.mean(0)
    total = centered.square().sum()
    return total.square() / (centered.T @ centered).square().sum().clamp_min(torch.finfo(outputs.dtype).tiny)


@torch.no_grad()
def entropy(probabilities: Tensor) -> Tensor:
    """Entropy of distributions (n, prototypes) over log(prototypes), (n,): 1 for a uniform distribution."""
    total: Tensor = torch.special.entr(probabilities).sum(-1)
    return total / math.log(probabilities.shape[-1])
