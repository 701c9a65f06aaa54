"""The verdict as data, on predictions made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from edgevit.budget import (
    ClassesWithoutRightPrediction,
    FewTestImages,
    InvalidLatency,
    LearnedTestImages,
    MissedClasses,
    NotBetterThanConstantGuess,
    RandomWeights,
    Records,
    UntestedEngine,
    _at_worst,
    _chance_of_at_least,
    compared_with_constant_guess,
    drop_between,
    judge,
)
from edgevit.configs import Budget
from edgevit.data.duplicates import Overlap
from edgevit.evaluation import AccuracyRecord, wilson_interval
from edgevit.profiling.energy import EnergyRecord, NoEnergy
from edgevit.profiling.latency_record import LatencyRecord

CLASSES = ("a", "b", "c")


def record(labels: Sequence[int], predicted: Sequence[int]) -> AccuracyRecord:
    names = tuple(f"{index}" for index in range(len(labels)))
    return AccuracyRecord(names, CLASSES, np.array(labels), np.array(predicted))


def right_for(*correct_of: tuple[int, int]) -> AccuracyRecord:
    """For each class, (correct, images); a wrong prediction is the next class."""
    labels = [label for label, (_, images) in enumerate(correct_of) for _ in range(images)]
    predicted = [
        label if index < correct else (label + 1) % len(correct_of)
        for label, (correct, images) in enumerate(correct_of)
        for index in range(images)
    ]
    return record(labels, predicted)


def latency(p50_ms: float, label: str = "measured") -> LatencyRecord:
    return LatencyRecord(p50_ms, 0.95 * p50_ms, 1.05 * p50_ms, 100, "compute", label, (), "torch", "here", 1, 1)


GOOD = right_for((190, 200), (180, 200), (170, 200))
OVERLAP = Overlap("photos.train", True, 3, 600)


@pytest.mark.parametrize(
    ("limits", "meets"),
    [
        ({}, None),
        ({"top1": 0.9}, True),
        ({"top1": 0.901}, False),
        ({"balanced_accuracy": 0.9}, True),
        ({"recall": 0.85}, True),
        ({"recall": 0.86}, False),
        ({"latency_ms": 2.0}, True),
        ({"latency_ms": 1.9}, False),
        ({"size_mib": 1.0, "recall": 0.0}, True),
        ({"top1": 0.9, "size_mib": 0.9}, False),
        ({"top1_drop": 0.01}, None),
        ({"top1_drop": 0.01, "top1": 0.95}, False),
    ],
)
def test_the_measured_value_decides(limits: dict[str, float], meets: bool | None) -> None:
    verdict = judge(Records(2**20, latency(2.0), GOOD), Budget(**limits))
    assert verdict.meets_budget is meets
    assert verdict.doubts == ()
    assert [judgement.name for judgement in verdict.judgements] == [
        name
        for name in ("latency_ms", "size_mib", "top1_drop", "top1", "balanced_accuracy", "recall")
        if name in limits
    ]


@given(st.floats(0, 1))
def test_a_limit_inside_the_interval_is_marked(limit: float) -> None:
    (judgement,) = judge(Records(accuracy=GOOD), Budget(top1=limit)).judgements
    low, high = wilson_interval(540, 600)
    assert judgement.met is (limit <= 0.9)
    assert judgement.may_be_chance is (low <= limit <= high)


@pytest.mark.parametrize("limit_ms", [1.0, 100.0])
def test_a_replayed_latency_is_not_judged(limit_ms: float) -> None:
    verdict = judge(Records(latency=latency(2.0, "replayed"), size_bytes=1), Budget(latency_ms=limit_ms))
    assert verdict.meets_budget is None
    assert judge(Records(latency=latency(2.0)), Budget(latency_ms=limit_ms)).meets_budget == (limit_ms > 2)


def with_energy(label: str = "measured", invalid: tuple[str, ...] = (), of_latency: str = "measured") -> LatencyRecord:
    energy = EnergyRecord(30.0, 29.0, 31.0, 8.0, 5.0, 12, "module (VDD_IN)", label, invalid=invalid)
    return replace(latency(2.0, of_latency), energy=energy)


@pytest.mark.parametrize(
    ("limit_mj", "met", "may_be_chance"), [(40, True, False), (30.5, True, True), (20, False, False)]
)
def test_the_energy_decides_with_its_interval(limit_mj: float, met: bool, may_be_chance: bool) -> None:
    (judgement,) = judge(Records(latency=with_energy()), Budget(energy_mj=limit_mj)).judgements
    assert (judgement.met, judgement.may_be_chance) == (met, may_be_chance)
    assert judgement.value == (30.0, 29.0, 31.0)


@pytest.mark.parametrize(
    "of_runs",
    [with_energy("replayed"), with_energy(invalid=("busy at rest",)), replace(latency(2.0), energy=NoEnergy("none"))],
)
def test_an_energy_that_is_replayed_invalid_or_missing_judges_nothing(of_runs: LatencyRecord) -> None:
    verdict = judge(Records(latency=of_runs), Budget(energy_mj=40, latency_ms=3))
    assert [judgement.met for judgement in verdict.judgements] == [True, None]
    assert verdict.meets_budget is None


@pytest.mark.parametrize("low_high_mj", [(-5.0, -1.0), (-1.0, 5.0)])
def test_an_energy_that_is_not_above_rest_judges_nothing(low_high_mj: tuple[float, float]) -> None:
    low_mj, high_mj = low_high_mj
    energy = EnergyRecord((low_mj + high_mj) / 2, low_mj, high_mj, 5.0, 5.0, 12, "module (VDD_IN)", "measured")
    verdict = judge(Records(latency=replace(latency(2.0), energy=energy)), Budget(energy_mj=40))
    assert [judgement.met for judgement in verdict.judgements] == [None]


def test_the_lowest_recall_names_its_class_and_of_equals_the_largest() -> None:
    (judgement,) = judge(Records(accuracy=right_for((5, 10), (20, 40), (30, 30))), Budget(recall=0.4)).judgements
    assert judgement.of_class is not None
    assert (judgement.of_class.name, judgement.of_class.n) == ("b", 40)


@pytest.mark.parametrize("limit", ["top1", "balanced_accuracy", "recall", "top1_drop"])
def test_a_model_that_is_no_better_than_a_constant_guess_meets_no_limit_on_accuracy(limit: str) -> None:
    """56% where the commonest class has 68%."""
    accuracy = right_for((100, 136), (12, 64))
    records = Records(2**10, latency(1.0), accuracy, float_student=accuracy)
    verdict = judge(records, Budget(latency_ms=10, **{limit: 0.0}))
    assert isinstance(verdict.doubts[0], NotBetterThanConstantGuess)
    assert verdict.doubts[0].guess == ("a", 0.68)
    assert verdict.doubts[0].drop.value == pytest.approx(0.12)
    assert [(each.met, each.by_doubt) for each in verdict.judgements] == [(True, None), (False, "constant_guess")]
    assert verdict.meets_budget is False
    assert judge(records, Budget(latency_ms=10)).meets_budget is True, "nothing was asked of the accuracy"


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=80))
def test_the_constant_guess_is_compared_on_the_same_images(drawn: list[tuple[int, int]]) -> None:
    accuracy = record(*zip(*drawn, strict=True))
    guess = np.bincount(accuracy.labels).argmax()
    drop = compared_with_constant_guess(accuracy)
    assert drop.value == pytest.approx(
        np.mean(accuracy.labels == guess) - np.mean(accuracy.labels == accuracy.predicted)
    )
    doubts = judge(Records(accuracy=accuracy), Budget()).doubts
    assert any(isinstance(doubt, NotBetterThanConstantGuess) for doubt in doubts) is (drop.high >= 0)


@pytest.mark.parametrize(
    ("correct", "images", "missed"),
    [(0, 5, False), (0, 6, True), (0, 40, True), (1, 40, True), (6, 40, True), (10, 40, False), (1, 4, False)],
)
def test_a_class_is_missed_where_its_images_are_enough_to_say_so(correct: int, images: int, missed: bool) -> None:
    """Of three classes, a guess is right for a third: 6 of 40 is below by its interval, 10 of 40 is not."""
    verdict = judge(Records(accuracy=right_for((200, 200), (200, 200), (correct, images))), Budget(top1=0.8))
    classes = [each.name for doubt in verdict.doubts if isinstance(doubt, MissedClasses) for each in doubt.classes]
    assert classes == (["c"] if missed else [])
    assert verdict.meets_budget is True


@pytest.mark.parametrize(
    ("name", "limit", "at_worst"),
    [("top1", 0.895, 537 / 600), ("balanced_accuracy", 0.895, 537 / 600), ("recall", 0.835, 167 / 200)],
)
def test_a_floor_is_judged_if_it_survives_learned_images_counted_as_wrong(name: str, limit: float, at_worst: float):
    records = Records(accuracy=GOOD, learned_from=(OVERLAP,))
    assert limit == pytest.approx(at_worst)
    survives = judge(records, Budget(**{name: limit - 0.001}))
    assert (survives.meets_budget, survives.doubts) == (True, ())
    decided = judge(records, Budget(**{name: limit + 0.001}))
    assert (decided.meets_budget, decided.judgements[0].by_doubt) == (None, "learned_from")
    (doubt,) = decided.doubts
    assert isinstance(doubt, LearnedTestImages)
    assert doubt.top1_at_worst == pytest.approx(537 / 600)


def test_many_learned_images_are_a_doubt_and_change_no_limit_that_is_not_met() -> None:
    many = Overlap("photos.train", False, 300, 600)
    records = Records(2**10, accuracy=GOOD, float_student=GOOD, learned_from=(many,))
    verdict = judge(records, Budget(top1=0.5, recall=0.99, top1_drop=0.01))
    assert [type(doubt) for doubt in verdict.doubts] == [LearnedTestImages]
    assert {each.name: each.met for each in verdict.judgements} == {"top1_drop": True, "top1": None, "recall": False}


def test_the_worst_case_is_the_lowest_over_all_choices_of_the_learned_images() -> None:
    accuracy = right_for((3, 4), (2, 2), (1, 3))
    right = np.flatnonzero(accuracy.correct)
    for shared in (1, 2, 3):
        at_worst = _at_worst(accuracy, shared)
        records = []
        for chosen in combinations(right, shared):
            predicted = accuracy.predicted.copy()
            predicted[list(chosen)] = (accuracy.labels[list(chosen)] + 1) % 3
            records.append(replace(accuracy, predicted=predicted))
        assert at_worst["top1"] == pytest.approx(min(each.top1.value for each in records))
        assert at_worst["recall"] == pytest.approx(min(each.recalls[0].recall.value for each in records))
        lowest = min(each.balanced_accuracy.value for each in records)
        assert at_worst["balanced_accuracy"] == pytest.approx(lowest)


def drawn(recalls: Sequence[float], images: int, generator: np.random.Generator) -> AccuracyRecord:
    """`images` images of each class, right with the probability of its recall; wrong ones are the next class."""
    labels = np.repeat(np.arange(len(recalls)), images)
    wrong = generator.random(len(labels)) >= np.repeat(recalls, images)
    names = tuple(map(str, range(len(recalls))))
    return AccuracyRecord(tuple(map(str, range(len(labels)))), names, labels, (labels + wrong) % len(recalls))


def class_doubts(accuracy: AccuracyRecord) -> list[type]:
    kinds = (MissedClasses, ClassesWithoutRightPrediction)
    return [type(doubt) for doubt in judge(Records(accuracy=accuracy), Budget()).doubts if isinstance(doubt, kinds)]


@pytest.mark.parametrize(("recall", "classes", "images"), [(0.7, 100, 5), (0.5, 50, 10), (0.9, 200, 1)])
def test_many_recognized_classes_rarely_give_a_doubt(recall: float, classes: int, images: int) -> None:
    """At most 5% of draws for each doubt; 24 of 200 is 4 standard deviations above 5%."""
    generator = np.random.default_rng(0)
    found = [class_doubts(drawn([recall] * classes, images, generator)) for _ in range(200)]
    for kind in (MissedClasses, ClassesWithoutRightPrediction):
        assert sum(kind in each for each in found) <= 24


@pytest.mark.parametrize("images", [1, 2, 3, 5])
def test_many_small_classes_that_are_never_recognized_give_a_doubt(images: int) -> None:
    accuracy = drawn([0.0] * 100 + [1.0] * 100, images, np.random.default_rng(0))
    assert class_doubts(accuracy) == [ClassesWithoutRightPrediction]


def test_the_chance_of_several_successes_agrees_with_the_binomial_distribution() -> None:
    for least in (1, 3, 8):
        assert _chance_of_at_least(least, [0.3] * 12) == pytest.approx(binom.sf(least - 1, 12, 0.3))


@pytest.mark.parametrize("limit", ["top1", "top1_drop"])
@pytest.mark.parametrize("value", [0.1, 0.99])
def test_no_limit_on_accuracy_is_judged_by_another_head(limit: str, value: float) -> None:
    records = Records(accuracy=GOOD, float_student=GOOD, of_other_head=True)
    (judgement,) = judge(records, Budget(**{limit: value})).judgements
    assert (judgement.met, judgement.by_doubt) == (None, "other_head")


def test_accuracies_by_different_protocols_are_not_compared() -> None:
    folds = replace(GOOD, protocol="cross_validation")
    assert drop_between(GOOD, folds) is None
    assert drop_between(folds, folds) is not None
    assert drop_between(None, GOOD) is None


@pytest.mark.parametrize(("correct", "images"), [(20, 24), (20, 40), (24, 30), (49, 50)])
def test_few_test_images_are_said_with_the_number_that_would_do(correct: int, images: int) -> None:
    accuracy = right_for((correct, images), (correct, images))
    low, high = wilson_interval(2 * correct, 2 * images)
    small = [doubt for doubt in judge(Records(accuracy=accuracy), Budget()).doubts if isinstance(doubt, FewTestImages)]
    assert bool(small) is (high - low > 0.2)
    for doubt in small:
        assert (doubt.n, doubt.top1.low, doubt.top1.high) == (2 * images, low, high)
        widths = [np.ptp(wilson_interval(correct / images * n, n)) for n in (doubt.enough - 1, doubt.enough)]
        assert widths[1] <= 0.2 < widths[0]


def test_doubts_come_in_the_order_of_their_weight() -> None:
    accuracy = right_for((10, 12), (0, 6))
    overlap = Overlap("photos.train", True, 3, 18)
    doubts = judge(Records(accuracy=accuracy, random_weights="random", learned_from=(overlap,)), Budget()).doubts
    order: list[Any] = [NotBetterThanConstantGuess, RandomWeights, MissedClasses, LearnedTestImages, FewTestImages]
    assert [type(doubt) for doubt in doubts] == order


def test_an_engine_without_an_accuracy_is_doubted() -> None:
    doubts = judge(Records(size_bytes=10, engine="engine"), Budget()).doubts
    assert doubts == (UntestedEngine("engine"),)
    accuracy = right_for((100, 100), (100, 100))
    assert UntestedEngine("engine") not in judge(Records(accuracy=accuracy, engine="engine"), Budget()).doubts
    assert judge(Records(size_bytes=10), Budget()).doubts == ()


def test_a_loss_is_measured_on_the_images_that_both_models_saw() -> None:
    one = AccuracyRecord(("x", "y", "z"), CLASSES, np.array([0, 1, 2]), np.array([0, 1, 0]))
    other = AccuracyRecord(("z", "x", "w"), CLASSES, np.array([2, 0, 0]), np.array([2, 1, 1]))
    drop = drop_between(one, other)
    assert drop is not None
    assert (drop.value, drop.n) == (0.0, 2), "x is lost, z is gained"
    apart = AccuracyRecord(("v",), CLASSES, np.array([0]), np.array([0]))
    assert drop_between(one, apart) is None


def test_no_budget_is_judged_by_an_invalid_latency() -> None:
    throttled = replace(latency(2.0), invalid=("the machine throttled",))
    verdict = judge(Records(latency=throttled), Budget(latency_ms=10))
    assert (verdict.meets_budget, verdict.judgements[0].met, verdict.judgements[0].value) == (None, None, None)
    assert verdict.doubts == (InvalidLatency(("the machine throttled",)),)
    assert judge(Records(latency=throttled, size_bytes=2**21), Budget(latency_ms=10, size_mib=1)).meets_budget is False
