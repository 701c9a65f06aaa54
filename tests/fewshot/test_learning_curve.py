"""What more images would bring: measured points against a plain loop, the law against numbers that follow it."""

from __future__ import annotations

import numpy as np
import pytest

from edgevit.data.dataset import Labels
from edgevit.fewshot.heads import Floats, nearest_centroid
from edgevit.fewshot.learning_curve import DRAWS, FURTHER_SHOTS, law_at, learning_curve


def drawn(centres: Floats, per_class: int, rng: np.random.Generator) -> tuple[Floats, Labels]:
    labels = np.repeat(np.arange(len(centres)), per_class)
    return centres[labels] + rng.standard_normal((len(labels), centres.shape[1])), labels


def test_the_law_goes_on_as_numbers_that_follow_it() -> None:
    shots = np.array([1, 2, 3, 4])
    errors = 0.6 * shots**-0.7
    assert law_at(shots, errors, 10) == pytest.approx(0.6 * 10**-0.7)
    both = law_at(shots, np.stack([errors, 0.5 * shots**-0.2]), 9)
    assert both == pytest.approx([0.6 * 9**-0.7, 0.5 * 9**-0.2])


def test_the_law_promises_no_loss() -> None:
    assert law_at([1, 2, 4], np.array([0.1, 0.2, 0.4]), 10) == pytest.approx(0.2)  # their geometric mean


def test_points_are_the_accuracies_of_the_nearest_centroid_on_what_is_held_out() -> None:
    rng = np.random.default_rng(0)
    features, labels = drawn(0.3 * rng.standard_normal((4, 60)), 5, rng)
    centre = features.mean(0)
    found = learning_curve(features, labels, 4, centre, seed=3)
    assert [one.shots for one in found.points] == [1, 2, 3, 4]
    for point in found.points:
        right = total = 0
        for draw in range(DRAWS):
            order = np.random.default_rng([3, draw]).permutation(len(labels))
            learned = np.concatenate([order[labels[order] == label][: point.shots] for label in range(4)])
            held_out = np.setdiff1d(order, learned)
            head = nearest_centroid(features[learned], labels[learned], 4, centre)
            right += int((head.logits(features[held_out]).argmax(1) == labels[held_out]).sum())
            total += len(held_out)
        assert point.accuracy.value == pytest.approx(right / total)
        assert point.accuracy.low < point.accuracy.value < point.accuracy.high


@pytest.mark.parametrize(("dimensions", "signal"), [(8, 1.5), (64, 0.35)])
def test_the_interval_holds_what_five_more_images_really_bring(dimensions: int, signal: float) -> None:
    inside = gains = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        centres = signal * rng.standard_normal((5, dimensions))
        features, labels = drawn(centres, 5, rng)
        outlook = learning_curve(features, labels, 5, features.mean(0), seed).outlook
        more, more_labels = drawn(centres, FURTHER_SHOTS, rng)
        test, truth = drawn(centres, 400, rng)
        all_features, all_labels = np.concatenate([features, more]), np.concatenate([labels, more_labels])
        head = nearest_centroid(all_features, all_labels, 5, all_features.mean(0))
        accuracy = (head.logits(test).argmax(1) == truth).mean()
        if outlook is None:  # no mistake with the most shots
            inside += accuracy > 0.9
            continue
        assert outlook.shots == 10
        assert 0 <= outlook.gain.low <= outlook.gain.value <= outlook.gain.high
        assert outlook.accuracy.value - outlook.now.value == pytest.approx(outlook.gain.value)
        inside += outlook.accuracy.low <= accuracy <= outlook.accuracy.high
        gains += outlook.gain.value > 0.01
    assert inside >= 14
    assert gains >= 10


@pytest.mark.parametrize(("per_class", "points"), [(1, 0), (2, 1), (3, 2)])
def test_with_few_points_nothing_is_foretold(per_class: int, points: int) -> None:
    rng = np.random.default_rng(1)
    features, labels = drawn(rng.standard_normal((3, 8)), per_class, rng)
    found = learning_curve(features, labels, 3, features.mean(0))
    assert len(found.points) == points
    assert found.outlook is None


def test_without_a_mistake_nothing_is_foretold() -> None:
    rng = np.random.default_rng(1)
    features, labels = drawn(100 * np.eye(3), 5, rng)
    found = learning_curve(features, labels, 3, features.mean(0))
    assert [one.accuracy.value for one in found.points] == [1, 1, 1, 1]
    assert all(one.accuracy.low < 0.9 for one in found.points)
    assert found.outlook is None


def test_an_unequal_support_is_measured_up_to_its_smallest_class_and_a_large_one_at_few_numbers() -> None:
    rng = np.random.default_rng(1)
    features, labels = drawn(rng.standard_normal((3, 8)), 40, rng)
    kept = np.sort(np.concatenate([np.arange(40, 120), np.arange(4)]))
    unequal = learning_curve(features[kept], labels[kept], 3, features.mean(0))
    assert [one.shots for one in unequal.points] == [1, 2, 3]
    shots = [one.shots for one in learning_curve(features, labels, 3, features.mean(0)).points]
    assert (shots[0], shots[-1]) == (1, 39)
    assert len(shots) <= 6
