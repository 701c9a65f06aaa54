"""Losses of self-supervised pre-training, as in the papers, and measures of collapse.

Outputs are (views, samples, dimensions). A loss is a mean over the samples.
"""

from __future__ import annotations

import math

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
