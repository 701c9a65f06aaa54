"""The winner among trained models: the most accurate within the limits, by measurements on shared images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from edgevit.budget import compared_with_constant_guess
from edgevit.errors import CheckFailed
from edgevit.evaluation import AccuracyRecord
from edgevit.evaluation.accuracy import Share
from edgevit.evaluation.paired import Drop, paired_drop
from edgevit.profiling.race import confidence_of_each


class Limits(NamedTuple):
    """The limits of a selection. None: no limit."""

    latency_ms: float | None = None
    size_mib: float | None = None

    def __str__(self) -> str:
        given = [(self.latency_ms, "ms"), (self.size_mib, "MiB")]
        return " and ".join(f"at most {limit:g} {unit}" for limit, unit in given if limit is not None) or "no limit"


@dataclass(frozen=True)
class MeasuredModel:
    """What one model costs and gives.

    Attributes:
        accuracy: on the images that all models share.
        p50_ms: with its 95% interval.
    """

    id: str
    accuracy: AccuracyRecord
    p50_ms: Share
    size_bytes: int

    @property
    def top1(self) -> float:
        return self.accuracy.top1.value

    @property
    def size_mib(self) -> float:
        return self.size_bytes / 2**20


@dataclass(frozen=True)
class Selection:
    """The winner of several models, and the reasons.

    Attributes:
        winner: None if no model is within the limits.
        reasons: a sentence for each model, by its id: why it won, or why it did not.
        front: the ids of the models on the Pareto front of top-1 and p50: no other model is as accurate and as fast.
    """

    winner: MeasuredModel | None
    reasons: Mapping[str, str]
    front: tuple[str, ...]


def select(models: Sequence[MeasuredModel], limits: Limits) -> Selection:
    """The fastest of the models within the limits that are not told apart from the most accurate of them.

    A latency is within its limit if the upper bound of its interval is. Accuracies are compared on the same images; the
    intervals of all differences hold together with 95% confidence. A model that is not shown to be better than always
    answering the commonest class is out: a training that diverged gives such a model.
    """
    reasons = {model.id: reason for model in models if (reason := _reason_against(model, limits))}
    within = [model for model in models if model.id not in reasons]
    front = tuple(model.id for model in models if not any(_dominates(other, model) for other in models))
    if not within:
        return Selection(None, reasons, front)
    best = max(within, key=lambda model: (model.top1, -model.p50_ms.value, -model.size_bytes))
    drops = _drops(best, within)
    as_accurate = [best, *(model for model in within if model.id in drops and drops[model.id].low <= 0)]
    winner = min(as_accurate, key=lambda model: (model.p50_ms.value, model.size_bytes, -model.top1))
    reasons[winner.id] = _why(winner, best, drops, len(within))
    for model in within:
        if model is not winner:
            reasons[model.id] = _reason_of_loser(model, winner, best, drops)
    return Selection(winner, reasons, front)


def no_winner(models: Sequence[MeasuredModel], limits: Limits, selection: Selection, where: str) -> CheckFailed:
    """The error where no model meets the budget. It says which budget could be met."""
    got = "; ".join(f"{id}: {reason}" for id, reason in selection.reasons.items())
    advice = " or ".join(_budgets_to_meet(models, limits)) or "train the models longer: none beats a constant guess"
    return CheckFailed("no model meets the budget", where=where, got=got, expected=str(limits), next=advice)


def _reason_against(model: MeasuredModel, limits: Limits) -> str | None:
    """Why a model cannot win; None if it may."""
    if not _beats_constant_guess(model):
        guess = model.accuracy.constant_guess
        return f"top-1 {model.top1:.1%} is not shown to be better than always answering '{guess.name}'"
    if limits.size_mib is not None and model.size_mib > limits.size_mib:
        return f"{model.size_mib:.3g} MiB is over {limits.size_mib:g} MiB"
    p50_ms = model.p50_ms
    if limits.latency_ms is not None and p50_ms.high > limits.latency_ms:
        interval = f"{p50_ms.low:.3g} to {p50_ms.high:.3g}"
        if p50_ms.value > limits.latency_ms:
            return f"p50 {p50_ms.value:.3g} ms ({interval}) is over {limits.latency_ms:g} ms"
        return f"p50 {p50_ms.value:.3g} ms is within {limits.latency_ms:g} ms, but its interval is not ({interval})"
    return None


def _beats_constant_guess(model: MeasuredModel) -> bool:
    return compared_with_constant_guess(model.accuracy).high < 0


def _dominates(other: MeasuredModel, model: MeasuredModel) -> bool:
    """Whether `other` is at least as accurate and as fast, and better in one of both."""
    mine, its = (model.top1, -model.p50_ms.value), (other.top1, -other.p50_ms.value)
    return its != mine and all(its[place] >= mine[place] for place in range(2))


def _drops(best: MeasuredModel, within: Sequence[MeasuredModel]) -> dict[str, Drop]:
    """The loss of top-1 of each other model against the most accurate one, by id."""
    others = [model for model in within if model is not best]
    return {
        model.id: paired_drop(best.accuracy.correct, model.accuracy.correct, confidence_of_each(len(others)))
        for model in others
    }


def _why(winner: MeasuredModel, best: MeasuredModel, drops: Mapping[str, Drop], within: int) -> str:
    if within == 1:
        return "the only model within the limits"
    if winner is best:
        return f"the most accurate of {within} models within the limits"
    return (
        f"not told apart from {best.id}, the most accurate ({_points(drops[winner.id])}), and faster: "
        f"{_times(winner, best)}"
    )


def _reason_of_loser(
    model: MeasuredModel, winner: MeasuredModel, best: MeasuredModel, drops: Mapping[str, Drop]
) -> str:
    if model is not best and drops[model.id].low > 0:
        return f"less accurate than {best.id} ({_points(drops[model.id])})"
    accuracy = (
        f"the most accurate, but {winner.id} is not told apart from it"
        if model is best
        else f"not told apart from {best.id} in accuracy ({_points(drops[model.id])})"
    )
    return f"{accuracy}; slower than {winner.id}: {_times(model, winner)}"


def _points(drop: Drop) -> str:
    return f"{drop.value * 100:.2g} points less, {drop.low * 100:.2g} to {drop.high * 100:.2g}"


def _times(model: MeasuredModel, other: MeasuredModel) -> str:
    return f"p50 {model.p50_ms.value:.3g} against {other.p50_ms.value:.3g} ms"


def _budgets_to_meet(models: Sequence[MeasuredModel], limits: Limits) -> Iterator[str]:
    """The least budgets that a model meets, with the model: one limit raised alone, or else both."""
    able = [model for model in models if _beats_constant_guess(model)]
    small = [model for model in able if _reason_against(model, limits._replace(latency_ms=None)) is None]
    fast = [model for model in able if _reason_against(model, limits._replace(size_mib=None)) is None]
    if small:
        model = min(small, key=lambda model: model.p50_ms.high)
        yield f"{model.id} meets latency_ms: {_rounded_up(model.p50_ms.high)}"
    if fast:
        model = min(fast, key=lambda model: model.size_bytes)
        yield f"{model.id} meets size_mib: {_rounded_up(model.size_mib)}"
    if able and not small and not fast:
        model = min(able, key=lambda model: model.p50_ms.high)
        yield (
            f"{model.id} meets latency_ms: {_rounded_up(model.p50_ms.high)} with size_mib: "
            f"{_rounded_up(model.size_mib)}"
        )


def _rounded_up(value: float) -> str:
    """At least the value, in three digits or a little more."""
    digits = f"{value:.3g}"
    return digits if float(digits) >= value else f"{value * 1.005:.3g}"
