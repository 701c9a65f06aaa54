"""The winner among trained models: the most accurate within the limits, by answers for shared images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from edgevit.artifacts import Json
from edgevit.budget import compared_with_constant_guess
from edgevit.errors import CheckFailed
from edgevit.evaluation import AccuracyRecord
from edgevit.evaluation.accuracy import Share
from edgevit.evaluation.paired import Drop, paired_drop
from edgevit.profiling.race import confidence_of_each
from edgevit.profiling.statistics import Interval, ratio_over_starts


class SelectionLimits(NamedTuple):
    """The limits of a selection. None: no limit.

    Attributes:
        max_top1_drop: largest top-1 that a faster model may lose against the most accurate one, as a fraction. With 0,
            the most accurate model wins.
    """

    latency_ms: float | None = None
    size_mib: float | None = None
    max_top1_drop: float = 0.0

    def __str__(self) -> str:
        given = [(self.latency_ms, "ms"), (self.size_mib, "MiB")]
        return " and ".join(f"at most {limit:g} {unit}" for limit, unit in given if limit is not None) or "no limit"


@dataclass(frozen=True)
class MeasuredModel:
    """What one model costs and gives.

    Attributes:
        id: its name among the models of the selection.
        accuracy: on the images that all models share.
        p50_ms: measured with its 95% interval, or predicted with its 90% interval.
        speeds: of each start of a race, the p50 of the race's first model over the p50 of this one; empty without a
            race.
    """

    id: str
    accuracy: AccuracyRecord
    p50_ms: Share
    size_bytes: int
    speeds: tuple[float, ...] = ()

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
        front: the ids of the models on the Pareto front of top-1 and p50, by their point values: no other model within
            the limits is as accurate and as fast.
    """

    winner: MeasuredModel | None
    reasons: Mapping[str, str]
    front: tuple[str, ...]

    def record(
        self, models: Sequence[MeasuredModel], limits: SelectionLimits, label: Literal["measured", "predicted"]
    ) -> Json:
        """The selection for programs and reports. `label` is that of the latencies."""
        return {
            "winner": self.winner and self.winner.id,
            "n": models[0].accuracy.n,
            "label": label,
            "limits": limits._asdict(),
            "models": [
                {
                    "id": model.id,
                    "top1": model.accuracy.top1._asdict(),
                    "p50_ms": model.p50_ms._asdict(),
                    "size_bytes": model.size_bytes,
                    "on_front": model.id in self.front,
                    "reason": self.reasons[model.id],
                }
                for model in models
            ],
        }


class NotBetterThanGuess(CheckFailed):
    """No model is shown to be better than always answering the commonest class."""


class OverBudget(CheckFailed):
    """No model meets the budget."""


class Against(NamedTuple):
    """A model against the most accurate one: the loss of top-1, and how often as fast it is; None without a race."""

    drop: Drop
    speedup: tuple[float, Interval] | None

    @property
    def is_faster(self) -> bool:
        return self.speedup is not None and self.speedup[1].low > 1


def winner_of(models: Sequence[MeasuredModel], limits: SelectionLimits) -> Selection:
    """The most accurate model within the limits, or a faster one that is shown to lose little against it.

    A faster model wins if the interval of its speedup lies above 1 and the upper bound of its loss of top-1 is at most
    `limits.max_top1_drop`; of several such models, the one with the least p50. Among models of equal top-1, the one
    with the least p50 counts as the most accurate.

    A latency is within its limit if the upper bound of its interval is. A model that is not shown to be better than
    always answering the commonest class is out: a training that diverged gives such a model.

    Whichever of the models is the most accurate, all intervals of losses hold together with 95% confidence: they are
    corrected for every pair of models within the limits (Bonferroni). So do all intervals of speedups against the most
    accurate model, which latencies do not choose.
    """
    reasons = {model.id: reason for model in models if (reason := _reason_against(model, limits))}
    within = [model for model in models if model.id not in reasons]
    front = tuple(model.id for model in within if not any(_dominates(other, model) for other in within))
    if not within:
        return Selection(None, reasons, front)
    best = max(within, key=lambda model: (model.top1, -model.p50_ms.value, -model.size_bytes))
    others = [model for model in within if model is not best]
    against = {model.id: _against(model, best, len(within)) for model in others}
    faster = [model for model in others if _may_win(against[model.id], limits)]
    winner = min(faster or [best], key=lambda model: (model.p50_ms.value, model.size_bytes, -model.top1))
    reasons[best.id] = _reason_of_best(best, winner, len(within), limits)
    for model in others:
        reasons[model.id] = _reason_of_other(model, best, winner, against[model.id], limits)
    return Selection(winner, reasons, front)


def no_winner(
    models: Sequence[MeasuredModel], limits: SelectionLimits, selection: Selection, where: str
) -> CheckFailed:
    """The error where no model meets the budget. It says which budget could be met."""
    got = "; ".join(f"{id}: {reason}" for id, reason in selection.reasons.items())
    if not any(map(_beats_constant_guess, models)):
        advice = "train the models longer, or add labelled images to compare them by"
        return NotBetterThanGuess(
            "no model is shown to be better than a constant guess", where=where, got=got, next=advice
        )
    advice = " or ".join(_budgets_to_meet(models, limits))
    return OverBudget("no model meets the budget", where=where, got=got, expected=str(limits), next=advice)


def _reason_against(model: MeasuredModel, limits: SelectionLimits) -> str | None:
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


def _against(model: MeasuredModel, best: MeasuredModel, count: int) -> Against:
    """A model against the most accurate of `count` models."""
    drop = paired_drop(best.accuracy.correct, model.accuracy.correct, confidence_of_each(count * (count - 1) // 2))
    if not model.speeds:
        return Against(drop, None)
    speedups = [own / its for own, its in zip(model.speeds, best.speeds, strict=True)]
    return Against(drop, ratio_over_starts(speedups, confidence_of_each(count - 1)))


def _may_win(against: Against, limits: SelectionLimits) -> bool:
    return against.is_faster and against.drop.high <= limits.max_top1_drop


def _reason_of_best(best: MeasuredModel, winner: MeasuredModel, within: int, limits: SelectionLimits) -> str:
    if within == 1:
        return "the only model within the limits"
    if winner is best:
        return f"the most accurate of {within} models within the limits"
    return f"the most accurate, but {winner.id} is faster and loses {_allowed(limits)}"


def _reason_of_other(
    model: MeasuredModel, best: MeasuredModel, winner: MeasuredModel, against: Against, limits: SelectionLimits
) -> str:
    drop = against.drop
    points = f"{drop.value * 100:.2g} points less, {drop.low * 100:.2g} to {drop.high * 100:.2g}"
    if _may_win(against, limits):
        shown = f"loses {_allowed(limits)} against {best.id}, the most accurate ({points}), and {_speed(against)}"
        times = f"p50 {model.p50_ms.value:.3g} against {winner.p50_ms.value:.3g} ms"
        return shown if model is winner else f"{shown}; {winner.id} has the least p50 of such models: {times}"
    if drop.low > 0:
        return f"less accurate than {best.id} ({points})"
    speed = f"; {_speed(against)}" if against.speedup else ""
    missed = f", but not shown to lose {_allowed(limits)}" if against.is_faster else ""
    return f"not told apart from {best.id} in accuracy ({points}){speed}{missed}"


def _speed(against: Against) -> str:
    assert against.speedup is not None
    ratio, interval = against.speedup
    said = "faster" if interval.low > 1 else "slower" if interval.high < 1 else "not told apart in speed"
    return f"{said}: {ratio:.2f}× as fast ({interval.low:.2f} to {interval.high:.2f})"


def _allowed(limits: SelectionLimits) -> str:
    points = limits.max_top1_drop * 100
    return f"at most {points:g} {'point' if points == 1 else 'points'} of top-1"


def _budgets_to_meet(models: Sequence[MeasuredModel], limits: SelectionLimits) -> Iterator[str]:
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
