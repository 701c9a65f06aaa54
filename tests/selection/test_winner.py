"""The winner among measured models, with accuracies and latencies that the tests make up."""

from __future__ import annotations

import numpy as np
import pytest

from edgevit.evaluation import AccuracyRecord
from edgevit.evaluation.accuracy import Share
from edgevit.evaluation.paired import paired_drop
from edgevit.selection.winner import Limits, MeasuredModel, no_winner, select

IMAGES = 1000
NO_LIMITS = Limits()


def model(id: str, wrong: slice, p50_ms: float, size_mib: float = 1.0, half_ms: float = 0.1) -> MeasuredModel:
    """A model of ten classes that errs on these of the 1,000 images."""
    labels = np.arange(IMAGES) % 10
    predicted = labels.copy()
    predicted[wrong] = (predicted[wrong] + 1) % 10
    accuracy = AccuracyRecord(tuple(map(str, range(IMAGES))), tuple("abcdefghij"), labels, predicted)
    latency = Share(p50_ms, p50_ms - half_ms, p50_ms + half_ms)
    return MeasuredModel(id, accuracy, latency, round(size_mib * 2**20))


LARGE = model("large", slice(0, 50), 9.0, 8.0)
MIDDLE = model("middle", slice(0, 55), 4.0, 4.0)  # five images more are wrong than of `large`
SMALL = model("small", slice(0, 150), 1.0)


def test_the_most_accurate_wins_where_accuracies_are_told_apart() -> None:
    other = model("other", slice(0, 70), 4.0)  # 20 images more are wrong, which chance does not explain
    selection = select([SMALL, other, LARGE], NO_LIMITS)
    assert selection.winner is LARGE
    assert selection.reasons["large"] == "the most accurate of 3 models within the limits"
    assert selection.reasons["other"].startswith("less accurate than large (2 points less, ")
    assert selection.front == ("small", "other", "large")


def test_the_fastest_wins_of_those_that_are_not_told_apart() -> None:
    few = model("few", slice(0, 52), 12.0)
    assert paired_drop(LARGE.accuracy.correct, few.accuracy.correct).may_be_chance
    selection = select([LARGE, few, SMALL], NO_LIMITS)
    assert selection.winner is LARGE
    assert selection.front == ("large", "small")
    assert "not told apart from large in accuracy" in selection.reasons["few"]
    assert selection.reasons["few"].endswith("slower than large: p50 12 against 9 ms")
    faster = model("faster", slice(0, 52), 5.0)
    selection = select([LARGE, faster, SMALL], NO_LIMITS)
    assert selection.winner is faster
    assert selection.reasons["faster"].startswith("not told apart from large, the most accurate (0.2 points less, ")
    assert selection.reasons["large"] == (
        "the most accurate, but faster is not told apart from it; slower than faster: p50 9 against 5 ms"
    )
    assert "less accurate than large" in selection.reasons["small"]


def test_of_equally_fast_models_the_smaller_wins() -> None:
    smaller = model("smaller", slice(0, 50), 9.0, 2.0)
    assert select([LARGE, smaller], NO_LIMITS).winner is smaller
    assert select([smaller, LARGE], NO_LIMITS).winner is smaller


def test_the_limits_hold_for_the_upper_bound_of_the_latency() -> None:
    models = [LARGE, MIDDLE, SMALL]
    assert select(models, Limits(latency_ms=4.1)).winner is MIDDLE
    selection = select(models, Limits(latency_ms=4.05))
    assert selection.winner is SMALL
    assert selection.reasons["small"] == "the only model within the limits"
    assert selection.reasons["middle"] == "p50 4 ms is within 4.05 ms, but its interval is not (3.9 to 4.1)"
    assert selection.reasons["large"] == "p50 9 ms (8.9 to 9.1) is over 4.05 ms"
    assert select(models, Limits(size_mib=3)).reasons["middle"] == "4 MiB is over 3 MiB"


def test_a_model_that_gives_one_answer_is_out() -> None:
    """As after a training that diverged: every answer is the first class."""
    labels = np.arange(IMAGES) % 10
    accuracy = AccuracyRecord(LARGE.accuracy.sample_ids, LARGE.accuracy.classes, labels, np.zeros_like(labels))
    constant = MeasuredModel("constant", accuracy, Share(0.1, 0.1, 0.1), 1)
    selection = select([constant, SMALL], Limits(latency_ms=2))
    assert selection.winner is SMALL
    assert "not shown to be better than always answering 'a'" in selection.reasons["constant"]
    none = select([constant], Limits(latency_ms=2))
    error = no_winner([constant], Limits(latency_ms=2), none, "stage 'best'")
    assert none.winner is None
    assert "none beats a constant guess" in str(error.next)


@pytest.mark.parametrize(
    ("limits", "advice"),
    [
        (Limits(latency_ms=0.5), "small meets latency_ms: 1.1"),
        (Limits(size_mib=0.5), "small meets size_mib: 1"),
        (Limits(latency_ms=5, size_mib=3.5), "middle meets size_mib: 4"),
        (Limits(latency_ms=0.5, size_mib=0.5), "middle meets latency_ms: 4.1 with size_mib: 4"),
    ],
)
def test_without_a_winner_the_budget_that_could_be_met_is_said(limits: Limits, advice: str) -> None:
    models = [LARGE, MIDDLE] if limits.size_mib and limits.latency_ms else [LARGE, MIDDLE, SMALL]
    selection = select(models, limits)
    assert selection.winner is None
    error = no_winner(models, limits, selection, "stage 'best'")
    assert advice in str(error.next)
    assert error.exit_code == 1
    for raised in models:
        assert raised.id in str(error.got)
