"""Episodes: draws that every method shares, and what is made of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from edgevit.errors import DataError
from edgevit.fewshot.episodes import Episode, EpisodePlan, draw_episodes, mean_interval, run_episodes, summary
from edgevit.fewshot.heads import nearest_centroid
from edgevit.progress import SilentProgress
from tests.fewshot.clusters import clusters

LABELS = np.repeat(np.arange(6), 12)


@given(
    ways=st.integers(2, 6),
    shots=st.integers(1, 5),
    queries=st.one_of(st.none(), st.integers(1, 7)),
    seed=st.integers(0, 9),
)
@settings(max_examples=30)
def test_an_episode_holds_what_was_asked_for_and_nothing_twice(
    ways: int, shots: int, queries: int | None, seed: int
) -> None:
    for episode in draw_episodes(LABELS, None, EpisodePlan(ways, shots, queries, 3, seed=seed)):
        assert np.bincount(episode.support_labels).tolist() == [shots] * ways
        assert np.bincount(episode.query_labels).tolist() == [queries or 12 - shots] * ways
        drawn = np.concatenate([episode.support, episode.queries])
        assert len(set(drawn.tolist())) == len(drawn)
        of_support = dict(zip(episode.support_labels.tolist(), LABELS[episode.support].tolist(), strict=True))
        assert [of_support[label] for label in episode.query_labels.tolist()] == LABELS[episode.queries].tolist()


def test_an_episode_is_a_function_of_seed_and_number() -> None:
    plan = EpisodePlan(3, 2, 4, 5)
    few, many = (list(draw_episodes(LABELS, None, replace_count(plan, count))) for count in (2, 5))
    assert all(same(one, other) for one, other in zip(few, many, strict=False))
    assert not same(many[0], many[1])
    other_seed = next(iter(draw_episodes(LABELS, None, plan._replace(seed=1))))
    assert not same(many[0], other_seed)


def test_support_of_another_set_answers_all_queries() -> None:
    asked = np.repeat(np.arange(6), [3, 4, 5, 6, 7, 8])
    for episode in draw_episodes(LABELS, asked, EpisodePlan(None, 5, None, 2)):
        assert sorted(episode.queries.tolist()) == list(range(33))
        assert (asked[episode.queries] == LABELS[episode.support[::5]][episode.query_labels]).all()


def test_imbalance_leaves_the_number_of_queries_and_takes_their_balance() -> None:
    labels = np.repeat(np.arange(4), 200)
    counts = [
        np.bincount(one.query_labels, minlength=4)
        for one in draw_episodes(labels, None, EpisodePlan(4, 1, 15, 50, imbalance=2.0))
    ]
    assert {int(count.sum()) for count in counts} == {60}
    assert np.std(counts) > 4


@given(there=st.integers(20, 40), seed=st.integers(0, 99))
@settings(max_examples=20)
def test_no_imbalance_asks_for_more_than_there_is(there: int, seed: int) -> None:
    labels = np.repeat(np.arange(8), there)
    for asked in (None, labels):
        for one in draw_episodes(labels, asked, EpisodePlan(5, 5, 8, 5, imbalance=2.0, seed=seed)):
            assert len(one.queries) == len(set(one.queries.tolist())) == 40


def test_queries_of_another_set_have_to_be_there() -> None:
    with pytest.raises(DataError, match=r"too few images(.|\n)*class 0 has 3(.|\n)*at least 15: the queries"):
        list(draw_episodes(LABELS, np.repeat(np.arange(6), 3), EpisodePlan(5, 5, 15, 1)))
    with pytest.raises(DataError, match=r"too few images for imbalanced queries(.|\n)*got: 7"):
        list(draw_episodes(LABELS, None, EpisodePlan(5, 5, 8, 1, imbalance=2.0)))


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (EpisodePlan(7, 1, 1, 1), "too few classes"),
        (EpisodePlan(3, 10, 5, 1), "too few images"),
        (EpisodePlan(3, 12, None, 1), "too few images"),
    ],
)
def test_what_cannot_be_drawn_is_refused(plan: EpisodePlan, said: str) -> None:
    with pytest.raises(DataError, match=said):
        list(draw_episodes(LABELS, None, plan))


def test_accuracy_is_that_of_the_head_on_the_queries() -> None:
    features, labels = clusters(40, spread=1.6)
    episodes = list(draw_episodes(labels, None, EpisodePlan(4, 3, 10, 4)))
    played = run_episodes(episodes, ["nearest_centroid", "auto"], features, features, None, None, SilentProgress())
    for number, one in enumerate(episodes):
        support = features[one.support]
        head = nearest_centroid(support, one.support_labels, 4, support.mean(0))
        right = (head.logits(features[one.queries]).argmax(1) == one.query_labels).mean()
        assert played.accuracies[0, number] == right
    assert sum(played.chosen.values()) == 4
    assert set(played.chosen) <= {"nearest_centroid", "ridge", "logistic_regression", "knn"}


def test_transduction_learns_from_the_queries_or_from_a_pool() -> None:
    features, labels = clusters(60, spread=1.6)
    elsewhere = clusters(60, spread=1.6, seed=9)[0]
    episodes = list(draw_episodes(labels, None, EpisodePlan(4, 2, 40, 6)))
    methods = ["nearest_centroid", "gaussian_mixture", "balanced_mixture"]
    of_queries = run_episodes(episodes, methods, features, features, None, None, SilentProgress()).accuracies
    of_pool = run_episodes(episodes, methods, features, features, elsewhere, None, SilentProgress()).accuracies
    for accuracies in (of_queries, of_pool):
        assert accuracies[2].mean() > accuracies[0].mean()
    assert not np.array_equal(of_queries[1:], of_pool[1:])


def test_summary_gives_students_interval_and_gains_by_pairs() -> None:
    features, labels = clusters(30, spread=1.6)
    episodes = list(draw_episodes(labels, None, EpisodePlan(3, 2, 10, 8)))
    played = run_episodes(episodes, ["nearest_centroid", "ridge"], features, features, None, None, SilentProgress())
    found = summary(played)
    first, second = played.accuracies
    low, high = stats.t.interval(0.95, 7, first.mean(), stats.sem(first))
    assert found["nearest_centroid"] == pytest.approx(
        {"value": first.mean(), "low": low, "high": high, "n": 8, "min": first.min(), "max": first.max()}
    )
    assert found["ridge"]["gain"] == pytest.approx(mean_interval(second - first))
    assert "gain" not in found["nearest_centroid"]


def test_one_episode_has_no_interval() -> None:
    assert mean_interval(np.array([0.5])) == {"value": 0.5, "low": None, "high": None, "n": 1}


def replace_count(plan: EpisodePlan, count: int) -> EpisodePlan:
    return plan._replace(episodes=count)


def same(one: Episode, other: Episode) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
