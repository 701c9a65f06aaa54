"""N-way K-shot episodes: random few-shot tasks, the same for every method, on features that are computed once."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from edgevit.artifacts import Json
from edgevit.data.dataset import Indices, Labels
from edgevit.errors import DataError, listed
from edgevit.fewshot.choice import best_candidate, default_candidates, default_method, head_scores
from edgevit.fewshot.heads import Floats
from edgevit.fewshot.methods import TRANSDUCTIVE, fit_head, pool_probabilities
from edgevit.progress import Progress

MOST_DRAWS = 1000  # attempts to draw shares for which each class has enough images


class Episode(NamedTuple):
    """A few-shot task: positions of its support and query samples, and their labels from 0 to ways - 1."""

    support: Indices
    support_labels: Labels
    queries: Indices
    query_labels: Labels


class EpisodePlan(NamedTuple):
    """How episodes are drawn.

    Attributes:
        ways: number of classes in an episode; None for all.
        shots: support samples of each class.
        queries: query samples of each class; None for all samples that are not in the support.
        episodes: number of episodes.
        imbalance: concentration of the Dirichlet distribution from which the classes' shares of the queries are drawn
            (Veilleux et al. 2021: 2); drawn again if a class has too few samples for its share. None for equal shares.
        seed: seed of the draws.
    """

    ways: int | None
    shots: int
    queries: int | None
    episodes: int
    imbalance: float | None = None
    seed: int = 0


def draw_episodes(support_labels: Labels, query_labels: Labels | None, plan: EpisodePlan) -> Iterator[Episode]:
    """Draw episodes, each as a function of (seed, number, labels).

    Args:
        support_labels: (n,), the labels of the samples that supports are drawn from.
        query_labels: (m,), the labels of the samples that queries are drawn from; None if supports and queries are
            drawn from the same samples. Then an episode has no sample in both.

    Raises:
        DataError: there are fewer classes than ways, or a class has too few samples for the support or the queries.
    """
    same_samples = query_labels is None
    support_members = _members(support_labels)
    query_members = support_members if query_labels is None else _members(query_labels)
    _check_enough(support_members, query_members, same_samples, plan)
    classes = np.array(sorted(support_members.keys() & query_members.keys()))
    ways = plan.ways or len(classes)
    for number in range(plan.episodes):
        rng = np.random.default_rng([plan.seed, number])
        chosen = rng.choice(classes, ways, replace=False) if ways < len(classes) else classes
        in_support = plan.shots if same_samples else 0
        available = np.array([len(query_members[label]) - in_support for label in chosen])
        counts = _query_counts(plan, available, rng)
        support, queries = [], []
        for way, label in enumerate(chosen):
            order = rng.permutation(support_members[label])
            candidates = order[plan.shots :] if same_samples else rng.permutation(query_members[label])
            support.append(order[: plan.shots])
            queries.append(candidates if counts is None else candidates[: counts[way]])
        yield Episode(
            np.concatenate(support),
            np.repeat(np.arange(ways), plan.shots),
            np.concatenate(queries),
            np.repeat(np.arange(ways), [len(class_queries) for class_queries in queries]),
        )


class EpisodeResults(NamedTuple):
    """The results of each method on the episodes.

    Attributes:
        methods: the names of the methods.
        ways: number of classes in an episode.
        accuracies: (methods, episodes).
        seconds: the total time of each method.
        chosen: how often `auto` chose each method.
    """

    methods: tuple[str, ...]
    ways: int
    accuracies: Floats
    seconds: tuple[float, ...]
    chosen: dict[str, int]


def run_episodes(
    episodes: Sequence[Episode],
    methods: Sequence[str],
    support_features: Floats,
    query_features: Floats,
    pool_features: Floats | None,
    base: Floats | None,
    progress: Progress,
) -> EpisodeResults:
    """Measure the accuracy of each method on each episode.

    Transductive methods learn from the pool if there is one, otherwise from all queries of the episode at once. Without
    a pool, `auto` chooses only among the methods that need none.
    """
    accuracies = np.zeros((len(methods), len(episodes)))
    seconds = [0.0] * len(methods)
    chosen: dict[str, int] = {}
    ways = int(episodes[0].support_labels.max()) + 1
    with progress.bar("episodes", len(episodes), "episodes") as bar:
        for number, episode in enumerate(episodes):
            support, queries = support_features[episode.support], query_features[episode.queries]
            for row, method in enumerate(methods):
                # The queries are a pool only for transductive methods. An inductive method predicts each independently.
                pool = queries if pool_features is None and method in TRANSDUCTIVE else pool_features
                start = time.perf_counter()
                name = method
                if method == "auto":
                    name = _auto_method(support, episode.support_labels, ways, pool, base, number)
                    chosen[name] = chosen.get(name, 0) + 1
                if pool is queries:
                    scores = pool_probabilities(name, support, episode.support_labels, ways, pool, base)
                else:
                    scores = fit_head(name, support, episode.support_labels, ways, pool, base).logits(queries)
                seconds[row] += time.perf_counter() - start
                accuracies[row, number] = (scores.argmax(1) == episode.query_labels).mean()
            bar.advance()
    return EpisodeResults(tuple(methods), ways, accuracies, tuple(seconds), chosen)


def summary(results: EpisodeResults) -> dict[str, Json]:
    """For each method: mean accuracy with 95% interval (Student's t over episodes), minimum and maximum.

    From the second method on, `gain` is the mean difference to the first method, paired by episode, with its interval.
    """
    statistics: dict[str, Json] = {}
    for method, accuracies in zip(results.methods, results.accuracies, strict=True):
        extremes = {"min": float(accuracies.min()), "max": float(accuracies.max())}
        statistics[method] = {**mean_interval(accuracies), **extremes}
        if method != results.methods[0]:
            statistics[method]["gain"] = mean_interval(accuracies - results.accuracies[0])
    return statistics


def mean_interval(values: Floats) -> Json:
    """The mean with its 95% interval by Student's t, {value, low, high, n}; low and high are None if n is 1."""
    mean, n = float(values.mean()), len(values)
    if n < 2:
        return {"value": mean, "low": None, "high": None, "n": n}
    half = float(stats.t.ppf(0.975, n - 1)) * float(values.std(ddof=1)) / n**0.5
    return {"value": mean, "low": mean - half, "high": mean + half, "n": n}


def _auto_method(
    support: Floats, labels: Labels, ways: int, pool: Floats | None, base: Floats | None, seed: int
) -> str:
    candidates = default_candidates(pool is not None)
    scores = head_scores(candidates, support, labels, ways, pool, base, seed)
    return best_candidate(scores, candidates) if scores else default_method(pool is not None)


def _members(labels: Labels) -> dict[int, Indices]:
    return {int(label): np.flatnonzero(labels == label) for label in np.unique(labels) if label >= 0}


def _query_counts(plan: EpisodePlan, available: Indices, rng: np.random.Generator) -> Indices | None:
    """The number of queries of each class, (ways,), at most `available`; None for all available samples."""
    if plan.queries is None:
        return None
    ways = len(available)
    if plan.imbalance is None:
        return np.full(ways, plan.queries)
    for _ in range(MOST_DRAWS):
        counts = rng.multinomial(plan.queries * ways, rng.dirichlet(np.full(ways, plan.imbalance)))
        if (counts <= available).all():
            return counts
    raise DataError(
        "classes have too few images for imbalanced queries",
        got=f"{min(available)} in the smallest class of an episode",
        expected=f"{plan.queries * ways} queries of {ways} classes, in shares from Dirichlet({plan.imbalance:g})",
        next="reduce queries, or remove imbalance",
    )


def _check_enough(
    support_members: dict[int, Indices], query_members: dict[int, Indices], same_samples: bool, plan: EpisodePlan
) -> None:
    ways = plan.ways or len(support_members)
    shared = sorted(support_members.keys() & query_members.keys())
    if len(shared) < max(2, ways):
        raise DataError(
            "there are too few classes for the episodes", got=len(shared), expected=f"at least {max(2, ways)}"
        )
    queries = plan.queries if plan.queries and plan.imbalance is None else 1
    if same_samples:
        _check_each_has(support_members, shared, plan.shots + queries, f"{plan.shots} shots and the queries")
    else:
        _check_each_has(support_members, shared, plan.shots, f"{plan.shots} shots")
        _check_each_has(query_members, shared, queries, "the queries")


def _check_each_has(members: dict[int, Indices], classes: Sequence[int], needed: int, purpose: str) -> None:
    short = [f"class {label} has {len(members[label])}" for label in classes if len(members[label]) < needed]
    if short:
        raise DataError(
            "classes have too few images for the episodes",
            got=listed(short),
            expected=f"at least {needed}: {purpose}",
        )
