"""Folds and scores of cross-validation inside a support set."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, log_loss

from edgevit.fewshot.crossvalidation import Score, fold_count, folds, mean_score, score


@given(sizes=st.lists(st.integers(2, 9), min_size=2, max_size=6), seed=st.integers(0, 2**31))
def test_every_sample_is_held_out_once_and_every_class_is_on_both_sides(sizes: list[int], seed: int) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    made = folds(labels, fold_count(labels), seed)
    assert len(made) == min(5, *sizes)
    assert sorted(np.concatenate([fold.held_out for fold in made]).tolist()) == list(range(len(labels)))
    for fold in made:
        assert sorted([*fold.train, *fold.held_out]) == list(range(len(labels)))
        assert set(labels[fold.train]) == set(labels[fold.held_out]) == set(range(len(sizes)))
        held_out = np.bincount(labels[fold.held_out])
        assert all(abs(count - size / len(made)) < 1 for count, size in zip(held_out, sizes, strict=True))


def test_folds_are_a_function_of_the_seed() -> None:
    labels = np.repeat(np.arange(3), 8)
    first, again, other = (np.concatenate([fold.held_out for fold in folds(labels, 4, seed)]) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_one_image_of_a_class_leaves_nothing_to_hold_out() -> None:
    assert fold_count(np.array([0, 0, 0, 1])) == 1


def test_score_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    logits, labels = 3 * rng.standard_normal((40, 4)), rng.integers(0, 4, 40)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    got = score(logits, labels)
    assert got.accuracy == accuracy_score(labels, probabilities.argmax(1))
    assert got.log_likelihood == pytest.approx(-log_loss(labels, probabilities))
    assert score(np.log(probabilities), labels) == pytest.approx(got)


def test_score_of_large_logits_is_finite() -> None:
    assert score(np.array([[1e4, -1e4]]), np.array([1])) == (0.0, -2e4)


def test_parts_add_up_to_the_whole() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((10, 3)), rng.integers(0, 3, 10)
    parts = [score(logits[:7], labels[:7]), score(logits[7:], labels[7:])]
    assert mean_score(parts, [7, 3]) == pytest.approx(score(logits, labels))
    assert mean_score([Score(0.5, -1.0), Score(0.0, -math.inf)], [1, 1]).log_likelihood == -math.inf


def test_likelihood_decides_between_equal_accuracies() -> None:
    assert max(Score(0.5, -2.0), Score(0.5, -1.0), Score(0.4, -0.1)) == (0.5, -1.0)
