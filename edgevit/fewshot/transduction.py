"""Transductive methods: class probabilities of a pool of unlabelled features, given a few labelled features.

As in `heads`, features are (samples, dimensions) float64, every class is at least once in `labels`, and nothing is
random. Each method returns the class probabilities of the pool, (samples, classes).
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_array, diags_array, eye_array
from scipy.sparse.linalg import cg
from torch import Tensor

from edgevit.data.dataset import Labels
from edgevit.fewshot.heads import (
    Floats,
    class_directions,
    left_out_cosines,
    likeliest_scale,
    one_hot,
    softmax,
    unit,
    whitened,
)

NEIGHBORS = 5
ALPHA = 0.97  # the share of its label that a node takes from its neighbors (Zhou et al. 2004; between 0 and 1)
BLOCK = 1024  # rows of the cosine matrix in memory at a time
MOST_ITERATIONS = 50  # of expectation maximization
TIM_TEMPERATURE, TIM_RATE, TIM_STEPS = 15.0, 1e-4, 1000  # values of the authors of α-TIM


def label_propagation(support: Floats, labels: Labels, num_classes: int, center: Floats, pool: Floats) -> Floats:
    """Label propagation over a graph of nearest neighbors.

    F = (1 − α)(I − αS)⁻¹Y with S = D^-½ W D^-½ (Zhou et al. 2004, "Learning with local and global consistency"); W
    connects each sample with its nearest neighbors by cosine, with weight cos³ (Iscen et al. 2019). The rows of Y that
    belong to a class sum to 1, so that classes with more support samples do not dominate.
    """
    affinity = _neighbor_graph(unit(np.concatenate([support, pool]) - center))
    scaling = diags_array(1 / np.sqrt(np.maximum(affinity.sum(1), 1e-12)))
    system = eye_array(affinity.shape[0]) - ALPHA * (scaling @ affinity @ scaling)
    seeds = one_hot(labels, num_classes) / np.bincount(labels)[labels][:, None]
    spread = np.zeros((affinity.shape[0], num_classes))
    for label in range(num_classes):
        start = np.concatenate([seeds[:, label], np.zeros(len(pool))])
        spread[:, label], _ = cg(system, start, rtol=1e-8, atol=0)
    spread = np.maximum(spread[len(support) :], 0) + 1e-12
    probabilities: Floats = spread / spread.sum(1, keepdims=True)
    return probabilities


def gaussian_mixture(
    support: Floats, labels: Labels, num_classes: int, center: Floats, pool: Floats, balanced: bool = False
) -> Floats:
    """Expectation maximization that starts from the support's class means (soft k-means by cosine).

    The model is a mixture of von Mises-Fisher distributions with a common concentration (Banerjee et al. 2005), on
    directions from `center` that are whitened by the spread within the support's classes. The concentration maximizes
    the likelihood of the support samples, each given the other samples of its class. Support samples keep their labels.

    Args:
        balanced: the pool has equally many samples of each class. Its probabilities then solve an optimal transport
            under this condition (Hu et al. 2021, PT-MAP). Otherwise the shares of the classes are estimated too.
    """
    known, unknown = _directions(support, labels, num_classes, center, pool)
    means = class_directions(known, labels, num_classes)
    concentration = likeliest_scale(left_out_cosines(known, labels, means), labels)
    labelled = one_hot(labels, num_classes)
    shares = np.full(num_classes, 1 / num_classes)
    probabilities = np.zeros((len(pool), num_classes))
    for _ in range(MOST_ITERATIONS):
        before = probabilities
        scores = concentration * unknown @ means.T
        if balanced:
            shares = _balancing_shares(scores, shares)
        probabilities = softmax(scores + np.log(shares))
        if not balanced:
            shares = (probabilities.sum(0) + 1) / (len(pool) + num_classes)
        means = unit(labelled.T @ known + probabilities.T @ unknown)
        if np.abs(probabilities - before).max() < 1e-3:
            break
    return probabilities


def alpha_tim(support: Floats, labels: Labels, num_classes: int, center: Floats, pool: Floats) -> Floats:
    """Prototypes trained by α-TIM, transductive information maximization for balanced and imbalanced pools.

    The prototypes minimize the cross-entropy on the support − H_α(mean prediction on the pool) + mean H_α(prediction),
    with Tsallis entropies H_α(p) = (1 − Σ p^α)/(α − 1) (Veilleux et al. 2021). Logits are −τ/2·|z − w|² of unit
    features z and prototypes w. As in the paper, α is 2 for one shot and 7 for five or more; `center` is not used.
    """
    known, unknown = (torch.from_numpy(unit(features)) for features in (support, pool))
    targets = torch.from_numpy(labels)
    prototypes = torch.stack([known[targets == label].mean(0) for label in range(num_classes)]).requires_grad_()
    alpha = float(np.interp(len(labels) / num_classes, (1, 5), (2, 7)))
    optimizer = torch.optim.Adam([prototypes], lr=TIM_RATE)
    with torch.enable_grad():
        for _ in range(TIM_STEPS):
            predictions = _tim_logits(unknown, prototypes).softmax(-1)
            supervised = torch.nn.functional.cross_entropy(_tim_logits(known, prototypes), targets)
            information = _tsallis(predictions.mean(0), alpha) - _tsallis(predictions, alpha).mean()
            optimizer.zero_grad()
            (supervised - information).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return softmax(_tim_logits(unknown, prototypes.detach()).numpy())


def _tim_logits(directions: Tensor, prototypes: Tensor) -> Tensor:
    return TIM_TEMPERATURE * (directions @ prototypes.T - (prototypes**2).sum(-1) / 2)


def _tsallis(probabilities: Tensor, alpha: float) -> Tensor:
    """The Tsallis entropy H_α over the last axis."""
    return (1 - (probabilities + 1e-12).pow(alpha).sum(-1)) / (alpha - 1)


def _directions(
    support: Floats, labels: Labels, num_classes: int, center: Floats, pool: Floats
) -> tuple[Floats, Floats]:
    """Unit vectors of support and pool, whitened by the spread within the support's classes."""
    known, unknown = whitened(unit(support - center), labels, num_classes, unit(pool - center))
    return unit(known), unit(unknown)


def _balancing_shares(scores: Floats, shares: Floats) -> Floats:
    """Shares (classes,) for which softmax(scores + log shares) has equal class sums (Sinkhorn and Knopp 1967).

    Args:
        shares: (classes,), the start of the iteration.
    """
    kernel = np.exp(scores - scores.max(1, keepdims=True))
    equal_sum = scores.shape[0] / scores.shape[1]
    for _ in range(1000):
        class_sums = shares * (kernel.T @ (1 / (kernel @ shares)))
        shares = shares * equal_sum / class_sums
        if np.abs(class_sums / equal_sum - 1).max() < 1e-6:
            break
    balanced: Floats = shares / shares.sum()
    return balanced


def _neighbor_graph(directions: Floats) -> csr_array:
    """Symmetric weights (n, n): the mean over both directions of cos³ to the nearest neighbors, 0 to other samples."""
    rows, columns, weights = [], [], []
    for start in range(0, len(directions), BLOCK):
        block = np.arange(start, min(start + BLOCK, len(directions)))
        cosines = directions[block] @ directions.T
        cosines[np.arange(len(block)), block] = -1
        nearest = np.argpartition(-cosines, min(NEIGHBORS, cosines.shape[1] - 1), axis=1)[:, :NEIGHBORS]
        rows.append(np.repeat(block, nearest.shape[1]))
        columns.append(nearest.ravel())
        weights.append(np.maximum(np.take_along_axis(cosines, nearest, 1), 0).ravel() ** 3)
    graph = csr_array(
        (np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns))), shape=(len(directions),) * 2
    )
    return csr_array((graph + graph.T) / 2)
