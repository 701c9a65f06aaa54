"""Heads on features whose answer is known, and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import fractional_matrix_power, helmert
from sklearn.covariance import oas
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import KNeighborsClassifier
from sklearn.utils.class_weight import compute_sample_weight

from edgevit.fewshot.heads import (
    PENALTIES,
    k_nearest_neighbors,
    logistic_regression,
    nearest_centroid,
    one_hot,
    ridge,
    softmax,
    unit,
    whitened,
)
from edgevit.fewshot.methods import fit_head, pool_probabilities
from edgevit.training.class_balance import ClassBalance
from tests.fewshot.clusters import clusters, moons

HEADS = [nearest_centroid, ridge, logistic_regression, k_nearest_neighbors]


def test_nearest_centroid_is_the_largest_cosine() -> None:
    support, labels = clusters(5, spread=1.5)
    queries, _ = clusters(50, spread=1.5, seed=1)
    centre = support.mean(0)
    directions = unit(support - centre)
    centroids = unit(np.stack([directions[labels == label].mean(0) for label in range(4)]))
    head = nearest_centroid(support, labels, 4, centre)
    nearest = cosine_similarity(queries - centre, centroids).argmax(1)
    assert (head.logits(queries).argmax(1) == nearest).all()


def test_logistic_regression_is_scikit_learns_after_centring_and_scaling() -> None:
    support, labels = clusters(5, spread=1.5)
    centre = support.mean(0)
    scale = np.linalg.norm(support - centre, axis=1).mean()
    reference = LogisticRegression(C=10.0, max_iter=2000).fit((support - centre) / scale, labels)
    head = logistic_regression(support, labels, 4, centre)
    logits = head.logits(support)
    probabilities = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
    np.testing.assert_allclose(probabilities, reference.predict_proba((support - centre) / scale), atol=1e-6)


def test_two_classes_have_two_logits() -> None:
    support, labels = clusters(6, classes=2)
    centre = support.mean(0)
    reference = LogisticRegression(C=10.0, max_iter=2000)
    scale = np.linalg.norm(support - centre, axis=1).mean()
    reference.fit((support - centre) / scale, labels)
    logits = logistic_regression(support, labels, 2, centre).logits(support)
    assert logits.shape == (12, 2)
    np.testing.assert_allclose(
        1 / (1 + np.exp(logits[:, 0] - logits[:, 1])),
        reference.predict_proba((support - centre) / scale)[:, 1],
        atol=1e-6,
    )


@pytest.mark.parametrize("head_of", HEADS)
def test_confidence_is_near_accuracy(head_of: type) -> None:
    support, labels = clusters(5, spread=1.5)
    queries, truth = clusters(500, spread=1.5, seed=1)
    logits = head_of(support, labels, 4, support.mean(0)).logits(queries)
    confidence = np.exp(logits.max(1) - np.logaddexp.reduce(logits, axis=1))
    assert abs(confidence.mean() - (logits.argmax(1) == truth).mean()) < 0.15


@pytest.mark.parametrize("head_of", HEADS)
def test_scaling_all_features_changes_nothing(head_of: type) -> None:
    support, labels = clusters(5)
    plain = head_of(support, labels, 4, support.mean(0)).logits(support)
    scaled = head_of(100 * support, labels, 4, 100 * support.mean(0)).logits(100 * support)
    np.testing.assert_allclose(scaled, plain, atol=1e-6)


def test_one_shot_works() -> None:
    support, labels = clusters(1, spread=0.1)
    queries, truth = clusters(20, spread=0.1, seed=1)
    for head_of in HEADS:
        assert (head_of(support, labels, 4, support.mean(0)).logits(queries).argmax(1) == truth).all()  # type: ignore[attr-defined]


@pytest.mark.parametrize("counts", [[5, 5, 5, 5], [2, 9, 4, 5]])
def test_ridge_is_scikit_learns_at_the_penalty_of_the_least_error_left_out(counts: list[int]) -> None:
    support, labels = clusters(counts, spread=1.5)
    queries, _ = clusters(20, spread=1.5, seed=1)
    centre = support.mean(0) + 0.3
    scale = np.linalg.norm(support - centre, axis=1).mean()
    samples, targets = (support - centre) / scale, 2.0 * one_hot(labels, 4) - 1
    errors = {}
    for penalty in PENALTIES:
        left_out = [
            Ridge(alpha=penalty).fit(np.delete(samples, i, 0), np.delete(targets, i, 0)).predict(samples[i : i + 1])[0]
            for i in range(len(samples))
        ]
        errors[penalty] = ((np.array(left_out) - targets) ** 2).sum()
    reference = Ridge(alpha=min(errors, key=errors.__getitem__)).fit(samples, targets)
    logits = ridge(support, labels, 4, centre).logits(queries)
    expected = reference.predict((queries - centre) / scale)
    ratio = logits / expected  # one scale for all of them
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-6)
    assert ratio[0, 0] >= 1


UNEQUAL = [6, 3, 2, 2]


def test_balanced_logistic_regression_is_scikit_learns() -> None:
    support, labels = clusters(UNEQUAL, spread=1.5)
    centre = support.mean(0)
    samples = (support - centre) / np.linalg.norm(support - centre, axis=1).mean()
    reference = LogisticRegression(C=10.0, max_iter=2000, class_weight="balanced").fit(samples, labels)
    head = fit_head("logistic_regression", support, labels, 4, balance=ClassBalance("balanced"))
    np.testing.assert_allclose(softmax(head.logits(support)), reference.predict_proba(samples), atol=1e-5)


def test_balanced_ridge_is_scikit_learns_at_the_penalty_of_the_least_error_left_out() -> None:
    support, labels = clusters(UNEQUAL, spread=1.5)
    queries, _ = clusters(20, spread=1.5, seed=1)
    centre, weights = support.mean(0), compute_sample_weight("balanced", labels)
    scale = np.linalg.norm(support - centre, axis=1).mean()
    samples, targets = (support - centre) / scale, 2.0 * one_hot(labels, 4) - 1
    errors = {}
    for penalty in PENALTIES:
        left_out = []
        for i in range(len(samples)):
            rest = np.delete(np.arange(len(samples)), i)
            fitted = Ridge(alpha=penalty).fit(samples[rest], targets[rest], sample_weight=weights[rest])
            left_out.append(fitted.predict(samples[i : i + 1])[0])
        errors[penalty] = (weights[:, None] * (np.array(left_out) - targets) ** 2).sum()
    reference = Ridge(alpha=min(errors, key=errors.__getitem__)).fit(samples, targets, sample_weight=weights)
    logits = fit_head("ridge", support, labels, 4, balance=ClassBalance("balanced")).logits(queries)
    ratio = logits / reference.predict((queries - centre) / scale)  # one scale for all of them
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-6)


@pytest.mark.parametrize("method", ["ridge", "logistic_regression"])
def test_adjusted_logits_are_less_by_the_logarithm_of_the_frequency(method: str) -> None:
    support, labels = clusters(UNEQUAL, spread=1.5)
    plain, adjusted = (
        fit_head(method, support, labels, 4, balance=balance).logits(support)
        for balance in (ClassBalance(), ClassBalance(tau=0.5))
    )
    expected = plain - 0.5 * np.log(np.array(UNEQUAL) / sum(UNEQUAL))  # Menon et al. 2021, eq. 9
    np.testing.assert_allclose(adjusted, expected, atol=1e-10)


def test_a_pool_counts_as_much_as_it_is_certain() -> None:
    support, labels = clusters(UNEQUAL, spread=0.3)
    pool, truth = clusters([30, 10, 10, 10], spread=0.3, seed=1)
    centre = np.concatenate([support, pool]).mean(0)
    probabilities = pool_probabilities("label_propagation", support, labels, 4, pool)
    entropy = -(probabilities * np.log(probabilities + 1e-12)).sum(1)
    weights = np.concatenate([np.ones(len(support)), np.clip(1 - entropy / np.log(4), 0, 1)])
    together, names = np.concatenate([support, pool]), np.concatenate([labels, truth])
    assert (probabilities.argmax(1) == truth).all()
    scale = np.linalg.norm(together - centre, axis=1).mean()
    sizes = np.array([weights[names == label].sum() for label in range(4)])
    balanced = weights * weights.sum() / (4 * sizes[names])
    reference = LogisticRegression(C=10.0, max_iter=2000)
    reference.fit((together - centre) / scale, names, sample_weight=balanced)
    head = fit_head("label_propagation", support, labels, 4, pool, balance=ClassBalance("balanced"))
    expected = reference.predict_proba((together - centre) / scale)
    np.testing.assert_allclose(softmax(head.logits(together)), expected, atol=1e-5)


def test_neighbours_vote_as_scikit_learns() -> None:
    support, labels = clusters(5, spread=1.5)
    queries, _ = clusters(50, spread=1.5, seed=1)
    head = k_nearest_neighbors(support, labels, 4, support.mean(0))
    reference = KNeighborsClassifier(
        head.k, metric="cosine", weights=lambda distances: np.exp(head.scale * (1 - distances)), algorithm="brute"
    ).fit(head.directions, labels)
    expected = reference.predict_proba(unit(queries - support.mean(0)))
    np.testing.assert_allclose(np.exp(head.logits(queries)), expected, atol=2e-6)


def test_neighbours_are_counted_by_the_support_left_out() -> None:
    # Two bands and a mislabelled sample in the middle of one: a single neighbour would follow it.
    samples, labels = moons(30)
    noisy = labels.copy()
    noisy[::7] = 1 - noisy[::7]
    assert k_nearest_neighbors(samples, noisy, 2, np.zeros(3)).k > 1
    assert k_nearest_neighbors(samples, labels, 2, np.zeros(3)).k == 1


@pytest.mark.parametrize("shots", [2, 40])  # fewer samples than dimensions, and more
def test_whitening_is_the_inverse_root_of_the_shrunk_covariance_within_classes(shots: int) -> None:
    support, labels = clusters(shots, classes=3, spread=1.5)
    others, _ = clusters(7, classes=3, spread=1.5, seed=1)
    contrasts = np.concatenate([helmert(shots) @ support[labels == label] for label in range(3)])
    root = fractional_matrix_power(oas(contrasts, assume_centered=True)[0], -0.5)
    found, expected = np.concatenate(whitened(support, labels, 3, others)), np.concatenate([support, others]) @ root
    ratio = np.linalg.norm(expected) / np.linalg.norm(found)
    np.testing.assert_allclose(found * ratio, expected, rtol=1e-6, atol=1e-8)


def test_nearest_mean_after_whitening_is_linear_discriminant_analysis() -> None:
    stretch = np.linspace(1, 5, 8)
    support, labels = clusters(500, spread=1.5)
    queries, _ = clusters(50, spread=1.5, seed=1)
    support, queries = support * stretch, queries * stretch
    known, unknown = whitened(support, labels, 4, queries)
    means = np.stack([known[labels == label].mean(0) for label in range(4)])
    nearest = ((unknown[:, None] - means) ** 2).sum(2).argmin(1)
    reference = LinearDiscriminantAnalysis(solver="lsqr").fit(support, labels)
    assert (nearest == reference.predict(queries)).mean() > 0.98


def test_whitening_changes_nothing_where_no_class_spreads() -> None:
    support, labels = clusters(1)
    for known, named in ((support, labels), (np.repeat(support, 2, 0), np.repeat(labels, 2))):
        found, others = whitened(known, named, 4, support)
        np.testing.assert_array_equal(found, known)
        np.testing.assert_array_equal(others, support)
