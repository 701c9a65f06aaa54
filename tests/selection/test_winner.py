"""The winner among measured models, with accuracies and latencies that the tests make up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from edgevit.evaluation import AccuracyRecord
from edgevit.evaluation.accuracy import Share
from edgevit.evaluation.paired import paired_drop
from edgevit.selection.winner import MeasuredModel, NotBetterThanGuess, SelectionLimits, no_winner, winner_of

IMAGES = 1000
NO_LIMITS = SelectionLimits()


def model(id: str, wrong: slice, p50_ms: float, size_mib: float = 1.0, half_ms: float = 0.1) -> MeasuredModel:
    """A model of ten classes that errs on these of the 1,000 images."""
    labels = np.arange(IMAGES) % 10
    predicted = labels.copy()
    predicted[wrong] = (predicted[wrong] + 1) % 10
    latency = Share(p50_ms, p50_ms - half_ms, p50_ms + half_ms)
    return MeasuredModel(id, answers(labels, predicted), latency, round(size_mib * 2**20), speeds_of(p50_ms))


def answers(labels: NDArray[np.int64], predicted: NDArray[np.int64]) -> AccuracyRecord:
    return AccuracyRecord(tuple(map(str, range(len(labels)))), tuple("abcdefghij"), labels, predicted)


def speeds_of(p50_ms: float) -> tuple[float, ...]:
    """In twelve starts against a model of 9 ms, up and down by 0.1%."""
    return tuple(9.0 / p50_ms * (1 + 0.001 * (-1) ** start) for start in range(12))


LARGE = model("large", slice(0, 50), 9.0, 8.0)
MIDDLE = model("middle", slice(0, 55), 4.0, 4.0)  # five images more are wrong than of `large`
SMALL = model("small", slice(0, 150), 1.0)


def test_the_most_accurate_wins_where_accuracies_are_told_apart() -> None:
    other = model("other", slice(0, 70), 4.0)  # 20 images more are wrong, which chance does not explain
    selection = winner_of([SMALL, other, LARGE], NO_LIMITS)
    assert selection.winner is LARGE
    assert selection.reasons["large"] == "the most accurate of 3 models within the limits"
    assert selection.reasons["other"].startswith("less accurate than large (2 points less, ")
    assert selection.front == ("small", "other", "large")


def test_a_faster_model_wins_only_if_it_is_shown_to_lose_little() -> None:
    few = model("few", slice(0, 52), 12.0)
    faster = model("faster", slice(0, 52), 5.0)
    assert paired_drop(LARGE.accuracy.correct, faster.accuracy.correct).may_be_chance
    models = [LARGE, few, faster, SMALL]
    selection = winner_of(models, NO_LIMITS)
    assert selection.winner is LARGE
    assert selection.front == ("large", "faster", "small")
    assert "not told apart from large in accuracy" in selection.reasons["few"]
    assert selection.reasons["few"].endswith("; slower: 0.75× as fast (0.75 to 0.75)")
    assert "faster: 1.80× as fast" in selection.reasons["faster"]
    assert selection.reasons["faster"].endswith("but not shown to lose at most 0 points of top-1")
    selection = winner_of(models, SelectionLimits(max_top1_drop=0.01))
    assert selection.winner is faster
    assert selection.reasons["faster"].startswith(
        "loses at most 1 point of top-1 against large, the most accurate (0.2 "
    )
    assert selection.reasons["large"] == ("the most accurate, but faster is faster and loses at most 1 point of top-1")
    assert selection.reasons["small"].startswith("less accurate than large (10 points less, ")


def test_of_the_models_that_lose_little_the_one_with_the_least_p50_wins() -> None:
    models = [LARGE, model("fast", slice(0, 51), 5.0), model("fastest", slice(0, 52), 4.0)]
    selection = winner_of(models, SelectionLimits(max_top1_drop=0.02))
    assert selection.winner is models[2]
    assert selection.reasons["fast"].endswith("; fastest has the least p50 of such models: p50 5 against 4 ms")


def test_few_images_do_not_give_accuracy_away() -> None:
    """With 24 images nearly nothing is told apart. The least lead in p50 decides nothing, whatever the margin."""
    labels = np.arange(24) % 10
    shares = {"big": 0.9, "small": 0.6}
    models = []
    for id, share in shares.items():
        predicted = np.where(np.arange(24) < round(24 * share), labels, (labels + 1) % 10)
        p50_ms = {"big": 4.0, "small": 3.0}[id]
        models.append(
            MeasuredModel(id, answers(labels, predicted), Share(p50_ms, p50_ms, p50_ms), 1, speeds_of(p50_ms))
        )
    for margin in (0.0, 0.1):
        selection = winner_of(models, SelectionLimits(max_top1_drop=margin))
        assert selection.winner is models[0]


def test_a_speed_that_is_not_told_apart_decides_nothing() -> None:
    same = model("same", slice(0, 50), 9.0)
    scattered = tuple(1 + 0.02 * (-1) ** start for start in range(12))
    nearly = replace(model("nearly", slice(0, 51), 8.9), speeds=scattered)
    selection = winner_of([same, nearly], SelectionLimits(max_top1_drop=0.1))
    assert selection.winner is same
    assert "not told apart in speed" in selection.reasons["nearly"]


def test_equal_models_are_seldom_called_less_accurate() -> None:
    """In at most 5% of selections, though the model that all are compared with is chosen on the same images."""
    generator, selections, wrong = np.random.default_rng(0), 300, 0
    labels = np.arange(IMAGES) % 10
    for _ in range(selections):
        right = generator.random((8, IMAGES)) < 0.7
        models = [
            MeasuredModel(str(k), answers(labels, np.where(right[k], labels, (labels + 1) % 10)), Share(1, 1, 1), 1)
            for k in range(8)
        ]
        reasons = winner_of(models, NO_LIMITS).reasons.values()
        wrong += any(reason.startswith("less accurate") for reason in reasons)
    assert wrong / selections <= 0.05


def test_of_equally_accurate_and_fast_models_the_smaller_wins() -> None:
    smaller = model("smaller", slice(0, 50), 9.0, 2.0)
    assert winner_of([LARGE, smaller], NO_LIMITS).winner is smaller
    assert winner_of([smaller, LARGE], NO_LIMITS).winner is smaller


def test_the_limits_hold_for_the_upper_bound_of_the_latency() -> None:
    models = [LARGE, MIDDLE, SMALL]
    assert winner_of(models, SelectionLimits(latency_ms=4.1)).winner is MIDDLE
    selection = winner_of(models, SelectionLimits(latency_ms=4.05))
    assert selection.winner is SMALL
    assert selection.reasons["small"] == "the only model within the limits"
    assert selection.reasons["middle"] == "p50 4 ms is within 4.05 ms, but its interval is not (3.9 to 4.1)"
    assert selection.reasons["large"] == "p50 9 ms (8.9 to 9.1) is over 4.05 ms"
    assert winner_of(models, SelectionLimits(size_mib=3)).reasons["middle"] == "4 MiB is over 3 MiB"


def test_a_model_that_gives_one_answer_is_out() -> None:
    """As after a training that diverged: every answer is the first class."""
    labels = np.arange(IMAGES) % 10
    accuracy = AccuracyRecord(LARGE.accuracy.sample_ids, LARGE.accuracy.classes, labels, np.zeros_like(labels))
    constant = MeasuredModel("constant", accuracy, Share(0.1, 0.1, 0.1), 1)
    selection = winner_of([constant, SMALL], SelectionLimits(latency_ms=2))
    assert selection.winner is SMALL
    assert "not shown to be better than always answering 'a'" in selection.reasons["constant"]
    none = winner_of([constant], SelectionLimits(latency_ms=2))
    error = no_winner([constant], SelectionLimits(latency_ms=2), none, "stage 'best'")
    assert none.winner is None
    assert isinstance(error, NotBetterThanGuess)
    assert "train the models longer" in str(error.next)


@pytest.mark.parametrize(
    ("limits", "advice"),
    [
        (SelectionLimits(latency_ms=0.5), "small meets latency_ms: 1.1"),
        (SelectionLimits(size_mib=0.5), "small meets size_mib: 1"),
        (SelectionLimits(latency_ms=5, size_mib=3.5), "middle meets size_mib: 4"),
        (SelectionLimits(latency_ms=0.5, size_mib=0.5), "middle meets latency_ms: 4.1 with size_mib: 4"),
    ],
)
def test_without_a_winner_the_budget_that_could_be_met_is_said(limits: SelectionLimits, advice: str) -> None:
    models = [LARGE, MIDDLE] if limits.size_mib and limits.latency_ms else [LARGE, MIDDLE, SMALL]
    selection = winner_of(models, limits)
    assert selection.winner is None
    error = no_winner(models, limits, selection, "stage 'best'")
    assert advice in str(error.next)
    assert error.exit_code == 1
    for raised in models:
        assert raised.id in str(error.got)
