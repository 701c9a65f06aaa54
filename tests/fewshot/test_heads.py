"""Heads on features whose answer is known, and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.pairwise import cosine_similarity

from edgevit.fewshot.heads import (
    Floats,
    Labels,
    label_propagation,
    logistic_regression,
    nearest_centroid,
    through_pool,
    unit,
)


def clusters(per_class: int | list[int], classes: int = 4, spread: float = 0.5, seed: int = 0) -> tuple[Floats, Labels]:
    """Samples about the corners of a simplex, far from the origin."""
    rng = np.random.default_rng(seed)
    counts = [per_class] * classes if isinstance(per_class, int) else per_class
    labels = np.repeat(np.arange(classes), counts)
    centres = 3 * np.eye(classes, 8) + 10
    return centres[labels] + spread * rng.standard_normal((len(labels), 8)), labels


def moons(per_class: int, seed: int = 0) -> tuple[Floats, Labels]:
    """Two bent bands on a sphere that no linear layer tells apart from their ends."""
    rng = np.random.default_rng(seed)
    along = np.linspace(0, np.pi, per_class)
    upper = np.stack([np.cos(along), np.sin(along)], 1)
    lower = np.stack([1 - np.cos(along), 0.4 - np.sin(along)], 1)
    flat = np.concatenate([upper, lower]) + 0.03 * rng.standard_normal((2 * per_class, 2))
    return np.concatenate([flat, np.ones((2 * per_class, 1)) * 2], 1), np.repeat([0, 1], per_class)


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


@pytest.mark.parametrize("head_of", [nearest_centroid, logistic_regression])
def test_confidence_is_near_accuracy(head_of: type) -> None:
    support, labels = clusters(5, spread=1.5)
    queries, truth = clusters(500, spread=1.5, seed=1)
    logits = head_of(support, labels, 4, support.mean(0)).logits(queries)
    confidence = np.exp(logits.max(1) - np.logaddexp.reduce(logits, axis=1))
    assert abs(confidence.mean() - (logits.argmax(1) == truth).mean()) < 0.15


@pytest.mark.parametrize("head_of", [nearest_centroid, logistic_regression])
def test_scaling_all_features_changes_nothing(head_of: type) -> None:
    support, labels = clusters(5)
    plain = head_of(support, labels, 4, support.mean(0)).logits(support)
    scaled = head_of(100 * support, labels, 4, 100 * support.mean(0)).logits(100 * support)
    np.testing.assert_allclose(scaled, plain, atol=1e-6)


def test_one_shot_works() -> None:
    support, labels = clusters(1, spread=0.1)
    queries, truth = clusters(20, spread=0.1, seed=1)
    for head_of in (nearest_centroid, logistic_regression):
        assert (head_of(support, labels, 4, support.mean(0)).logits(queries).argmax(1) == truth).all()


def test_labels_follow_the_bands_where_a_linear_head_cannot() -> None:
    pool, truth = moons(100)
    support, labels = pool[[50, 150]], np.array([0, 1])
    centre = np.zeros(3)
    spread = label_propagation(support, labels, pool, 2, centre)
    linear = logistic_regression(support, labels, 2, centre).logits(pool)
    assert (spread.argmax(1) == truth).mean() > 0.97
    assert (linear.argmax(1) == truth).mean() < 0.9


def test_propagated_labels_are_probabilities_also_where_nothing_arrives() -> None:
    support, labels = clusters(2)
    pool = np.concatenate([clusters(20, seed=1)[0], -clusters(10, seed=2)[0]])
    probabilities = label_propagation(support, labels, pool, 4, np.zeros(8))
    assert np.isfinite(probabilities).all()
    np.testing.assert_allclose(probabilities.sum(1), 1)


@pytest.mark.parametrize(("counts", "gain"), [([60, 60, 60, 60], 0.02), ([150, 60, 20, 10], 0.0)])
def test_pool_helps_when_balanced_and_does_no_harm_when_not(counts: list[int], gain: float) -> None:
    inductive, transductive = [], []
    for seed in range(5):
        support, labels = clusters(3, spread=1.6, seed=seed)
        pool, _ = clusters(counts, spread=1.6, seed=seed + 100)
        queries, truth = clusters(counts, spread=1.6, seed=seed + 200)
        centre = np.concatenate([support, pool]).mean(0)
        for heads, head in (
            (inductive, logistic_regression(support, labels, 4, centre)),
            (transductive, through_pool(support, labels, pool, 4, centre)),
        ):
            heads.append((head.logits(queries).argmax(1) == truth).mean())
    assert np.mean(transductive) > np.mean(inductive) + gain


def test_class_with_more_support_does_not_flood_the_others() -> None:
    pool, truth = clusters(60, classes=2, spread=1.2, seed=1)
    support, labels = clusters([1, 30], classes=2, spread=1.2)
    spread = label_propagation(support, labels, pool, 2, pool.mean(0))
    assert (spread.argmax(1) == truth)[truth == 0].mean() > 0.8


def test_large_pool_takes_part_by_evenly_spaced_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    support, labels = clusters(3)
    pool, _ = clusters(20, seed=1)
    centre = pool.mean(0)
    expected = through_pool(support, labels, pool[[0, 19, 39, 59, 79]], 4, centre)
    monkeypatch.setattr("edgevit.fewshot.heads.LARGEST_POOL", 5)
    assert np.array_equal(through_pool(support, labels, pool, 4, centre).weight, expected.weight)
