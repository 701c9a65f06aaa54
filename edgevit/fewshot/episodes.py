"""N-way K-shot episodes: the same draws for every method, on features that are computed once."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from edgevit.artifacts import Json
from edgevit.data.dataset import Indices, Labels
from edgevit.errors import DataError, listed
from edgevit.fewshot.choice import best, default_candidates, default_method, head_scores
from edgevit.fewshot.heads import Floats
from edgevit.fewshot.methods import TRANSDUCTIVE, fit_head, pool_probabilities
from edgevit.progress import Progress

MOST_DRAWS = 1000  # of uneven shares, until each class has enough


class Episode(NamedTuple):
    """One task: positions of its support and its queries, and their labels among its classes, from 0."""

    support: Indices
    support_labels: Labels
    queries: Indices
    query_labels: Labels


class EpisodePlan(NamedTuple):
    """How episodes are drawn.

    Attributes:
        ways: classes in an episode; None for all.
        shots: labelled samples of each class.
        queries: samples of each class to be answered; None for all that are left.
        imbalance: concentration of a Dirichlet distribution that the shares of the queries are drawn from
            (Veilleux et al. 2021: 2), anew where a class has too few samples for its share; None for equal shares.
    """

    ways: int | None
    shots: int
    queries: int | None
    episodes: int
    imbalance: float | None = None
    seed: int = 0


def draw_episodes(support_labels: Labels, query_labels: Labels | None, plan: EpisodePlan) -> Iterator[Episode]:
    """Episodes, each a function of (seed, number, labels).

    Args:
        support_labels: (n,) of what supports are drawn from.
        query_labels: (m,) of what queries are drawn from; None where they come from the same samples as the support,
            which an episode never shows twice.

    Raises:
        DataError: there are fewer classes than ways, or a class has too few samples, for the support or as queries.
    """
    members = _members(support_labels)
    others = members if query_labels is None else _members(query_labels)
    _check_enough(members, others, query_labels is None, plan)
    names = np.array(sorted(members.keys() & others.keys()))
    ways = plan.ways or len(names)
    for number in range(plan.episodes):
        rng = np.random.default_rng([plan.seed, number])
        chosen = rng.choice(names, ways, replace=False) if ways < len(names) else names
        shown = plan.shots if query_labels is None else 0
        counts = _query_counts(plan, np.array([len(others[name]) - shown for name in chosen]), rng)
        support, queries = [], []
        for place, name in enumerate(chosen):
            drawn = rng.permutation(members[name])
            left = drawn[plan.shots :] if query_labels is None else rng.permutation(others[name])
            support.append(drawn[: plan.shots])
            queries.append(left if counts is None else left[: counts[place]])
        yield Episode(
            np.concatenate(support),
            np.repeat(np.arange(ways), plan.shots),
            np.concatenate(queries),
            np.repeat(np.arange(ways), [len(one) for one in queries]),
        )


class EpisodeResults(NamedTuple):
    """What came of the episodes: accuracies (methods, episodes), the time each method took in all, and auto's choices.

    Attributes:
        chosen: how often auto chose each method.
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
    """Accuracy of each method on each episode.

    Transductive methods learn from the pool where there is one, otherwise from the episode's queries, all at once; auto
    chooses among those that need no pool where there is none.
    """
    accuracies = np.zeros((len(methods), len(episodes)))
    seconds = [0.0] * len(methods)
    chosen: dict[str, int] = {}
    ways = int(episodes[0].support_labels.max()) + 1
    with progress.bar("episodes", len(episodes), "episodes") as bar:
        for number, episode in enumerate(episodes):
            support, queries = support_features[episode.support], query_features[episode.queries]
            for place, method in enumerate(methods):
                # Queries are a pool for transduction alone: an inductive method answers each by itself.
                pool = queries if pool_features is None and method in TRANSDUCTIVE else pool_features
                start = time.perf_counter()
                name = method
                if method == "auto":
                    name = _chosen(support, episode.support_labels, ways, pool, base, number)
                    chosen[name] = chosen.get(name, 0) + 1
                if pool is queries:
                    answers = pool_probabilities(name, support, episode.support_labels, ways, pool, base)
                else:
                    answers = fit_head(name, support, episode.support_labels, ways, pool, base).logits(queries)
                seconds[place] += time.perf_counter() - start
                accuracies[place, number] = (answers.argmax(1) == episode.query_labels).mean()
            bar.advance()
    return EpisodeResults(tuple(methods), ways, accuracies, tuple(seconds), chosen)


def summary(played: EpisodeResults) -> dict[str, Json]:
    """Of each method its mean accuracy with 95% interval (Student's t over episodes), least and greatest.

    From the second method on, `gain` is the mean difference to the first, paired by episode, with its interval.
    """
    found: dict[str, Json] = {}
    for method, accuracies in zip(played.methods, played.accuracies, strict=True):
        found[method] = {**mean_interval(accuracies), "min": float(accuracies.min()), "max": float(accuracies.max())}
        if method != played.methods[0]:
            found[method]["gain"] = mean_interval(accuracies - played.accuracies[0])
    return found


def mean_interval(values: Floats) -> Json:
    """{value, low, high, n}: the mean with its 95% interval by Student's t; without an interval where n is 1."""
    mean, n = float(values.mean()), len(values)
    if n < 2:
        return {"value": mean, "low": None, "high": None, "n": n}
    half = float(stats.t.ppf(0.975, n - 1)) * float(values.std(ddof=1)) / n**0.5
    return {"value": mean, "low": mean - half, "high": mean + half, "n": n}


def _chosen(support: Floats, labels: Labels, ways: int, pool: Floats | None, base: Floats | None, seed: int) -> str:
    candidates = default_candidates(pool is not None)
    scores = head_scores(candidates, support, labels, ways, pool, base, seed)
    return best(scores, candidates) if scores else default_method(pool is not None)


def _members(labels: Labels) -> dict[int, Indices]:
    return {int(label): np.flatnonzero(labels == label) for label in np.unique(labels) if label >= 0}


def _query_counts(plan: EpisodePlan, there: Indices, rng: np.random.Generator) -> Indices | None:
    """How many queries of each class, of which so many are there."""
    if plan.queries is None:
        return None
    ways = len(there)
    if plan.imbalance is None:
        return np.full(ways, plan.queries)
    for _ in range(MOST_DRAWS):
        counts = rng.multinomial(plan.queries * ways, rng.dirichlet(np.full(ways, plan.imbalance)))
        if (counts <= there).all():
            return counts
    raise DataError(
        "classes have too few images for queries in uneven shares",
        got=f"{min(there)} in the smallest class of an episode",
        expected=f"enough for {plan.queries * ways} of {ways} classes, in shares from Dirichlet({plan.imbalance:g})",
        next="ask for fewer queries, or leave imbalance out",
    )


def _check_enough(members: dict[int, Indices], others: dict[int, Indices], same: bool, plan: EpisodePlan) -> None:
    ways = plan.ways or len(members)
    shared = sorted(members.keys() & others.keys())
    if len(shared) < max(2, ways):
        raise DataError(
            "there are too few classes for the episodes", got=len(shared), expected=f"at least {max(2, ways)}"
        )
    queries = plan.queries if plan.queries and plan.imbalance is None else 1
    _check_each_has(members, shared, plan.shots + queries * same, f"{plan.shots} shots{' and the queries' * same}")
    if not same:
        _check_each_has(others, shared, queries, "the queries")


def _check_each_has(members: dict[int, Indices], classes: Sequence[int], wanted: int, what: str) -> None:
    short = [f"class {label} has {len(members[label])}" for label in classes if len(members[label]) < wanted]
    if short:
        raise DataError(
            "classes have too few images for the episodes", got=listed(short), expected=f"at least {wanted}: {what}"
        )
