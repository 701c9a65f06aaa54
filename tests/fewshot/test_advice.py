"""Advice about a support set: planted faults are found; of a sound or a tiny one nothing is said."""

from __future__ import annotations

import numpy as np
import pytest

from edgevit.data.dataset import Labels
from edgevit.fewshot.advice import WIDTH, Advice, advice
from edgevit.fewshot.heads import Floats, softmax, unit
from tests.fewshot.clusters import clusters

CLASSES = ("bolt", "gear", "nut", "screw")


def given(features: Floats, labels: Labels, pool: Floats | None = None, base: Floats | None = None) -> Advice:
    found = advice(features, labels, CLASSES, [f"s/{index}.jpg" for index in range(len(labels))], pool, base)
    assert found is not None
    return found


def test_of_a_clean_support_nothing_is_complained() -> None:
    pool, _ = clusters(30, seed=1)
    found = given(*clusters(6), pool)
    assert (found.images, found.classes, found.shots) == (24, 4, 6)
    assert (found.mislabelled, found.duplicates, found.confused) == ((), (), ())
    assert found.pool is not None
    assert not found.pool.unlike
    assert found.lines() == []


@pytest.mark.parametrize("seed", range(5))
def test_a_wrong_label_is_found_and_named(seed: int) -> None:
    features, labels = clusters(6, spread=0.4, seed=seed)
    labels[1] = 2
    (one,) = given(features, labels).mislabelled
    assert (one.sample_id, one.label, one.looks_like) == ("s/1.jpg", "nut", "bolt")
    assert 0.8 <= one.probability <= 1


def test_probability_is_that_of_the_class_made_without_the_image() -> None:
    features, labels = clusters(5, spread=0.8, seed=3)
    labels[0] = 3
    (one,) = given(features, labels).mislabelled
    directions = unit(features - features.mean(0))
    best = -np.inf
    for scale in np.geomspace(1, 100, 41):
        rows = []
        for index in range(len(labels)):
            rest = np.arange(len(labels)) != index
            means = np.stack([directions[rest & (labels == label)].mean(0) for label in range(4)])
            rows.append(unit(means) @ directions[index])
        probabilities = softmax(scale * np.stack(rows))
        likelihood = float(np.log(probabilities[np.arange(len(labels)), labels]).mean())
        if likelihood > best:
            best, expected = likelihood, probabilities[0, 0]
    assert one.probability == pytest.approx(expected)


@pytest.mark.parametrize("per_class", [1, 2, 3])
def test_with_so_few_images_no_label_is_doubted(per_class: int) -> None:
    features, labels = clusters(per_class)
    labels = np.roll(labels, 1)
    assert given(features, labels).mislabelled == ()


def test_near_duplicates_are_found_within_and_across_classes() -> None:
    features, labels = clusters(5)
    features[1] = features[0] + 1e-3
    features[7] = features[12] - 2e-3
    found = {one.sample_ids: one.cosine for one in given(features, labels).duplicates}
    assert found.keys() == {("s/0.jpg", "s/1.jpg"), ("s/7.jpg", "s/12.jpg")}
    assert min(found.values()) > 0.999


def test_a_class_whose_images_are_all_alike_has_no_duplicates() -> None:
    assert given(*clusters(5, spread=0.01)).duplicates == ()
    features, labels = clusters([5, 1, 2, 5])
    features[6] = features[7]  # all of class 2: there is nothing to compare with
    assert given(features, labels).duplicates == ()


def test_confusion_is_that_of_a_loop_that_leaves_each_image_out() -> None:
    features, labels = clusters(6, spread=2.5, seed=4)
    directions = unit(features - features.mean(0))
    expected = np.zeros((4, 4), int)
    for index in range(len(labels)):
        rest = np.arange(len(labels)) != index
        means = np.stack([directions[rest & (labels == label)].mean(0) for label in range(4)])
        expected[labels[index], (unit(means) @ directions[index]).argmax()] += 1
    found = given(features, labels).confused
    assert found
    counts = [one.images for one in found]
    assert counts == sorted(counts, reverse=True)
    assert len(found) == min(5, int((np.triu(expected + expected.T, 1) >= 2).sum()))
    for one in found:
        first, second = map(CLASSES.index, one.classes)
        assert (one.images, one.of) == (expected[first, second] + expected[second, first], 12)


def test_classes_of_one_image_are_confused_with_none() -> None:
    assert given(*clusters(1, spread=5)).confused == ()


def test_a_pool_of_other_things_is_noticed() -> None:
    features, labels = clusters(6)
    strange = 10 + 3 * np.eye(8)[[5, 6, 7]].repeat(20, 0) + 0.5 * np.random.default_rng(1).standard_normal((60, 8))
    pool = given(features, labels, strange).pool
    assert pool is not None
    assert pool.unlike
    assert pool.far > 50
    assert any(f"{pool.far} of 60 images" in line for line in given(features, labels, strange).lines())


@pytest.mark.parametrize("seed", range(10))
def test_a_pool_of_the_same_classes_is_not(seed: int) -> None:
    features, labels = clusters(6, spread=1.0, seed=seed)
    pool, _ = clusters([80, 20, 5, 1], spread=1.0, seed=100 + seed)
    found = given(features, labels, pool).pool
    assert found is not None
    assert not found.unlike


def test_a_support_too_small_to_compare_a_pool_with_says_nothing_of_it() -> None:
    for per_class in (1, 4):
        assert given(*clusters(per_class), np.zeros((50, 8))).pool is None


def test_a_base_mean_is_the_centre() -> None:
    features, labels = clusters(6, spread=1.5, seed=2)
    shifted = given(features, labels, base=np.zeros(8))
    assert (
        shifted.mislabelled != given(features, labels).mislabelled or shifted.confused != given(*clusters(6)).confused
    )


def test_more_images_are_advised_only_where_the_gain_is_above_chance() -> None:
    """No signal: the law stays flat, and no two equal accuracies are set against each other."""
    labels = np.repeat(np.arange(4), 8)
    noise = np.random.default_rng(0).standard_normal((32, 8))
    flat = given(noise, labels)
    assert flat.curve.outlook is not None
    now = flat.curve.outlook.now.value
    assert f"    5 more images per class: nearest centroid stays at {now:.0%}" in flat.lines()
    helped = given(*clusters(12, spread=2.2, seed=0))
    assert helped.curve.outlook is not None
    gain = helped.curve.outlook.gain
    assert gain.low > 0
    assert any(f"nearest centroid gains {100 * gain.value:.1f} points (" in line for line in helped.lines())


def test_lines_fit_a_terminal_and_hold_nothing_that_moves_its_cursor() -> None:
    features, labels = clusters(6, spread=1.6, seed=4)
    labels[1] = 2
    features[8] = features[7]
    names = tuple(f"{name}\x1b[2J\n{'x' * 100}" for name in CLASSES)
    ids = [f"{'deep/' * 30}{index}.jpg" for index in range(24)]
    strange = -features.repeat(3, 0)
    found = advice(features, labels, names, ids, strange)
    assert found is not None
    lines = found.lines()
    assert 3 <= len(lines) <= 5
    assert all(len(line) <= WIDTH and line.isprintable() and line.startswith("    ") for line in lines)


def test_a_large_set_is_no_support() -> None:
    features, labels = clusters(501)
    assert advice(features, labels, CLASSES, [str(index) for index in range(len(labels))]) is None
