"""Heads that learn from samples without labels, against dense solutions, closed forms and finite differences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.optimize import check_grad

from edgevit.data.dataset import Labels
from edgevit.fewshot.heads import (
    Floats,
    class_directions,
    left_out_cosines,
    likeliest_scale,
    logistic_regression,
    one_hot,
    softmax,
    unit,
    whitened,
)
from edgevit.fewshot.methods import TRANSDUCTIVE, fit_head, pool_probabilities
from edgevit.fewshot.transduction import (
    ALPHA,
    NEIGHBORS,
    alpha_tim,
    gaussian_mixture,
    label_propagation,
)
from tests.fewshot.clusters import clusters, moons


def dense_propagation(support: Floats, labels: Labels, pool: Floats, classes: int) -> Floats:
    """Zhou et al. 2004 in full matrices."""
    directions = unit(np.concatenate(whitened(unit(support), labels, classes, unit(pool))))
    cosines = directions @ directions.T
    np.fill_diagonal(cosines, -1)
    joined = np.zeros_like(cosines)
    for row, nearest in enumerate(np.argsort(-cosines, 1)[:, :NEIGHBORS]):
        joined[row, nearest] = np.maximum(cosines[row, nearest], 0) ** 3
    joined = (joined + joined.T) / 2
    degree = joined.sum(1)
    seeds = np.zeros((len(directions), classes))
    seeds[np.arange(len(support)), labels] = 1 / np.bincount(labels)[labels]
    spread = np.linalg.solve(np.eye(len(directions)) - ALPHA * joined / np.sqrt(np.outer(degree, degree)), seeds)
    return np.asarray(spread[len(support) :] / spread[len(support) :].sum(1, keepdims=True))


def test_propagation_solves_its_equation() -> None:
    pool, _ = moons(60)
    support, labels = pool[[20, 40, 80, 100]] + 0.01, np.array([0, 0, 1, 1])
    found = label_propagation(support, labels, 2, np.zeros(3), pool)
    np.testing.assert_allclose(found, dense_propagation(support, labels, pool, 2), atol=1e-5)


def test_labels_follow_the_bands_where_a_linear_head_cannot() -> None:
    pool, truth = moons(100)
    support, labels = pool[[50, 150]], np.array([0, 1])
    spread = label_propagation(support, labels, 2, np.zeros(3), pool)
    linear = logistic_regression(support, labels, 2, np.zeros(3)).logits(pool)
    assert (spread.argmax(1) == truth).mean() > 0.97
    assert (linear.argmax(1) == truth).mean() < 0.9


def test_propagated_labels_are_probabilities_also_where_nothing_arrives() -> None:
    support, labels = clusters(2)
    pool = np.concatenate([clusters(20, seed=1)[0], -clusters(10, seed=2)[0]])
    probabilities = label_propagation(support, labels, 4, np.zeros(8), pool)
    assert np.isfinite(probabilities).all()
    np.testing.assert_allclose(probabilities.sum(1), 1)


def test_class_with_more_support_does_not_flood_the_others() -> None:
    pool, truth = clusters(60, classes=2, spread=1.2, seed=1)
    support, labels = clusters([1, 30], classes=2, spread=1.2)
    spread = label_propagation(support, labels, 2, pool.mean(0), pool)
    assert (spread.argmax(1) == truth)[truth == 0].mean() > 0.8


@pytest.mark.parametrize("method", ["label_propagation", "gaussian_mixture", "balanced_mixture"])
def test_pool_helps_where_it_is_balanced(method: str) -> None:
    assert gain_over_the_same_head_without_a_pool(method, [60, 60, 60, 60]) > 0.01


@pytest.mark.parametrize(
    "method", ["label_propagation", "gaussian_mixture", pytest.param("alpha_tim", marks=pytest.mark.slow)]
)
def test_pool_does_no_harm_where_it_is_not(method: str) -> None:
    assert gain_over_the_same_head_without_a_pool(method, [150, 60, 20, 10]) > -0.01


def test_balance_that_is_assumed_but_not_there_costs_accuracy() -> None:
    free, assumed = (
        gain_over_the_same_head_without_a_pool(method, [150, 60, 20, 10])
        for method in ("gaussian_mixture", "balanced_mixture")
    )
    assert assumed < free - 0.02


def gain_over_the_same_head_without_a_pool(method: str, counts: list[int]) -> float:
    gains = []
    for seed in range(5):
        support, labels = clusters(3, spread=1.6, seed=seed)
        pool, _ = clusters(counts, spread=1.6, seed=seed + 100)
        queries, truth = clusters(counts, spread=1.6, seed=seed + 200)
        support, pool, queries = support - 10, pool - 10, queries - 10
        inductive = "logistic_regression" if method == "label_propagation" else "nearest_centroid"
        right = [
            (fit_head(one, support, labels, 4, pool).logits(queries).argmax(1) == truth).mean()
            for one in (method, inductive)
        ]
        gains.append(right[0] - right[1])
    return float(np.mean(gains))


def test_mixture_ends_where_its_two_steps_agree() -> None:
    support, labels = clusters(3, spread=1.6)
    pool, _ = clusters([60, 60, 20, 60], spread=1.6, seed=1)
    centre = pool.mean(0)
    probabilities = gaussian_mixture(support, labels, 4, centre, pool)
    known, unknown = (unit(one) for one in whitened(unit(support - centre), labels, 4, unit(pool - centre)))
    means = unit(one_hot(labels, 4).T @ known + probabilities.T @ unknown)
    scale = likeliest_scale(left_out_cosines(known, labels, class_directions(known, labels, 4)), labels)
    again = softmax(scale * unknown @ means.T + np.log((probabilities.sum(0) + 1) / 204))
    np.testing.assert_allclose(again, probabilities, atol=2e-3)


def test_balanced_mixture_gives_each_class_as_much_of_the_pool() -> None:
    support, labels = clusters(3, spread=1.6)
    pool, _ = clusters([50, 20, 20, 10], spread=1.6, seed=1)
    probabilities = gaussian_mixture(support, labels, 4, pool.mean(0), pool, balanced=True)
    np.testing.assert_allclose(probabilities.sum(0), 25, rtol=1e-4)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-4)


def test_spread_that_the_support_shows_does_not_lead_the_pool_astray() -> None:
    stretch = np.array([8.0, 8.0] + [1.0] * 6)  # of all classes alike, across what tells them apart
    right = {}
    for shots in (1, 5):
        accuracies = []
        for seed in range(5):
            (support, labels), (pool, truth) = (
                clusters(count, classes=3, seed=seed + start) for count, start in ((shots, 0), (30, 100))
            )
            roll = np.roll(np.eye(8), 3, axis=1)  # the classes' corners to other axes than the stretched ones
            support, pool = ((one - 10) @ roll * stretch for one in (support, pool))
            found = pool_probabilities("gaussian_mixture", support, labels, 3, pool)
            accuracies.append((found.argmax(1) == truth).mean())
        right[shots] = float(np.mean(accuracies))
    assert right[5] > 0.9 > right[1]


def tim_loss(prototypes: Floats, known: Floats, labels: Labels, unknown: Floats, alpha: float) -> float:
    """Veilleux et al. 2021, one number at a time."""

    def predicted(z: Floats) -> Floats:
        return softmax(np.array([[-7.5 * ((one - w) ** 2).sum() for w in prototypes] for one in z]))

    def entropy(p: Floats) -> float:
        return float((1 - sum(value**alpha for value in p)) / (alpha - 1))

    answers = predicted(unknown)
    supervised = -np.mean([np.log(p[label]) for p, label in zip(predicted(known), labels, strict=True)])
    return float(supervised - entropy(answers.mean(0)) + np.mean([entropy(p) for p in answers]))


@pytest.mark.parametrize(("shots", "alpha"), [(1, 2.0), (5, 7.0), (8, 7.0)])
def test_tim_goes_down_its_papers_loss(shots: int, alpha: float, monkeypatch: pytest.MonkeyPatch) -> None:
    support, labels = clusters(shots, classes=3, spread=1.6)
    pool, _ = clusters(12, classes=3, spread=1.6, seed=1)
    known, unknown = unit(support), unit(pool)
    start = np.stack([known[labels == label].mean(0) for label in range(3)])

    def loss(flat: Floats) -> float:
        return tim_loss(flat.reshape(3, -1), known, labels, unknown, alpha)

    found: list[Floats] = []

    class Recording(torch.optim.SGD):
        def __init__(self, parameters: list[torch.Tensor], lr: float) -> None:
            super().__init__(parameters, lr=0.0)
            self.watched = parameters[0]

        def step(self, closure: Callable[[], float] | None = None) -> None:
            assert self.watched.grad is not None
            found.append(self.watched.grad.numpy().copy())

    monkeypatch.setattr("torch.optim.Adam", Recording)
    monkeypatch.setattr("edgevit.fewshot.transduction.TIM_STEPS", 1)
    alpha_tim(support, labels, 3, np.zeros(8), pool)
    assert check_grad(loss, lambda _: found[0].ravel(), start.ravel()) < 1e-5


def test_tim_ends_below_where_it_starts() -> None:
    support, labels = clusters(5, spread=1.6)
    pool, _ = clusters(30, spread=1.6, seed=1)
    known, unknown = unit(support - 10), unit(pool - 10)
    start = np.stack([known[labels == label].mean(0) for label in range(4)])
    found = alpha_tim(support - 10, labels, 4, np.zeros(8), pool - 10)
    before = softmax(np.array([[-7.5 * ((one - w) ** 2).sum() for w in start] for one in unknown]))
    assert np.abs(found - before).max() > 0.01
    assert -(found * np.log(found)).sum(1).mean() < -(before * np.log(before)).sum(1).mean()


def test_without_a_pool_there_is_nothing_to_learn_from() -> None:
    support, labels = clusters(3)
    for method in TRANSDUCTIVE:
        with pytest.raises(Exception, match="needs unlabelled images"):
            fit_head(method, support, labels, 4)
