"""Heads on frozen features, against scikit-learn and against votes that are counted one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier

from edgevit.fewshot.probes import (
    DEFAULT_PENALTY,
    PENALTIES,
    LabelPlan,
    best_penalty,
    draws_of,
    linear_probe,
    nearest_neighbors_probe,
    probed,
)
from edgevit.progress import SilentProgress

CLASSES = 4


def clusters(per_class: int, seed: int, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(CLASSES), per_class)
    centers = np.random.default_rng(99).normal(size=(CLASSES, 6))
    return centers[labels] + spread * rng.normal(size=(len(labels), 6)), labels


def test_votes_are_weighted_as_the_papers_say() -> None:
    support, labels = clusters(10, 0)
    queries, _ = clusters(5, 1)
    predicted = nearest_neighbors_probe((1, 7, 40), 0.07)(support, labels, queries, CLASSES)
    assert list(predicted) == ["kNN, k 1, τ 0.07", "kNN, k 7, τ 0.07", "kNN, k 40, τ 0.07"]
    for k in (1, 7, 40):
        for row, query in enumerate(queries.tolist()):
            cosines = []
            for place, sample in enumerate(support.tolist()):
                product = sum(a * b for a, b in zip(query, sample, strict=True))
                cosines.append((product / math.hypot(*query) / math.hypot(*sample), place))
            votes = [0.0] * CLASSES
            for cosine, place in sorted(cosines, reverse=True)[:k]:
                votes[labels[place]] += math.exp(cosine / 0.07)
            assert predicted[f"kNN, k {k}, τ 0.07"][row] == votes.index(max(votes))


def test_they_are_those_of_scikit_learn() -> None:
    support, labels = clusters(30, 2, spread=2)
    queries, _ = clusters(30, 3, spread=2)
    predicted = nearest_neighbors_probe((20,), 0.1)(support, labels, queries, CLASSES)["kNN, k 20, τ 0.1"]
    peer = KNeighborsClassifier(20, metric="cosine", weights=lambda distances: np.exp((1 - distances) / 0.1))
    assert np.array_equal(predicted, peer.fit(support, labels).predict(queries))


def test_more_neighbors_than_labelled_images_give_no_prediction() -> None:
    support, labels = clusters(2, 4)
    probe = nearest_neighbors_probe((5, 9), 0.07)
    assert list(probe(support, labels, support, CLASSES)) == ["kNN, k 5, τ 0.07"]
    assert nearest_neighbors_probe((9,), 0.07)(support, labels, support, CLASSES) == {}


def test_the_penalty_is_the_best_on_images_that_were_held_out() -> None:
    """Labels of chance: the penalty that fits them best is not the one that predicts held-out images best."""
    support, labels = clusters(25, 5, spread=3)
    length = np.linalg.norm(support - support.mean(0), axis=1).mean()
    train, held_out = next(StratifiedKFold(5, shuffle=True, random_state=0).split(support, labels))
    center = support[train].mean(0)
    accuracies = {}
    for c in PENALTIES:
        scale = np.linalg.norm(support[train] - center, axis=1).mean()
        model = LogisticRegression(C=c, max_iter=2000).fit((support[train] - center) / scale, labels[train])
        accuracies[c] = model.score((support[held_out] - center) / scale, labels[held_out])
    chosen = best_penalty(support, labels, seed=0)
    assert accuracies[chosen] == max(accuracies.values())
    assert min(accuracies.values()) < max(accuracies.values())
    queries, _ = clusters(20, 6, spread=3)
    peer = LogisticRegression(C=chosen, max_iter=2000).fit((support - support.mean(0)) / length, labels)
    expected = peer.predict((queries - support.mean(0)) / length)
    assert np.array_equal(linear_probe(0)(support, labels, queries, CLASSES)["linear"], expected)


def test_one_image_of_a_class_leaves_none_to_choose_by() -> None:
    support, labels = clusters(1, 7)
    assert best_penalty(support, labels, seed=0) == DEFAULT_PENALTY


def test_classes_without_a_label_are_never_predicted() -> None:
    support, labels = clusters(6, 8)
    kept = labels != 1
    predicted = linear_probe(0)(support[kept], labels[kept], support, CLASSES)["linear"]
    assert set(predicted.tolist()) == {0, 2, 3}


def test_draws_are_stratified_and_depend_on_their_number_alone() -> None:
    labels = np.repeat([0, 1, 2], [100, 20, 3])
    draws = draws_of(labels, 0.1, 3, seed=0)
    for draw in draws:
        assert np.bincount(labels[draw]).tolist() == [10, 2, 1]
        assert np.all(np.diff(draw) > 0)
    assert not np.array_equal(draws[0], draws[1])
    assert all(np.array_equal(*pair) for pair in zip(draws, draws_of(labels, 0.1, 3, seed=0), strict=True))
    assert not np.array_equal(draws[0], draws_of(labels, 0.1, 3, seed=1)[0])


def test_all_labels_are_one_draw() -> None:
    support, labels = clusters(20, 9)
    heads = probed(
        nearest_neighbors_probe((5, 60), 0.07), support, labels, support[:7], LabelPlan((1.0, 0.5), 3, 0), CLASSES,
        SilentProgress(),
    )  # fmt: skip
    assert [(one.head, one.label_share, one.support_images, one.predicted.shape) for one in heads] == [
        ("kNN, k 5, τ 0.07", 1.0, 80, (1, 7)), ("kNN, k 60, τ 0.07", 1.0, 80, (1, 7)),
        ("kNN, k 5, τ 0.07", 0.5, 40, (3, 7)),
    ]  # fmt: skip


@pytest.mark.parametrize("probe", [nearest_neighbors_probe((1,), 0.07), linear_probe(0)])
def test_the_support_predicts_itself(probe) -> None:
    support, labels = clusters(15, 10, spread=0.2)
    (predicted,) = probe(support, labels, support, CLASSES).values()
    assert np.array_equal(predicted, labels)
