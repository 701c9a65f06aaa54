"""Whether a deployed model meets a budget, and doubts about its accuracy. Data only: a report writes the sentences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import Literal, TypeAlias, get_args

from edgevit.configs import Budget
from edgevit.data.duplicates import Overlap
from edgevit.evaluation.accuracy import Share, wilson_interval
from edgevit.evaluation.accuracy_record import AccuracyRecord, ClassRecall, ConstantGuess
from edgevit.evaluation.paired import Drop, paired_drop
from edgevit.profiling.latency_record import LatencyRecord

WIDEST_INTERVAL = 0.2  # of top-1: with a wider one, there are too few test images
MISSED = 0.5  # the interval of a missed class's recall ends below; with no right prediction, from 4 images on

LimitName: TypeAlias = Literal["latency_ms", "size_mib", "top1_drop", "top1", "balanced_accuracy", "recall"]
FLOORS: tuple[LimitName, ...] = ("top1", "balanced_accuracy", "recall")
ON_ACCURACY: tuple[LimitName, ...] = ("top1_drop", *FLOORS)


@dataclass(frozen=True)
class Records:
    """The measurements of a deployed model. None: not measured.

    Attributes:
        float_student: the float source of the model, for `top1_drop`.
        random_weights: a sentence about weights that nobody trained; None if all weights are trained.
        learned_from: the test images that the model learned from.
    """

    size_bytes: int | None = None
    latency: LatencyRecord | None = None
    accuracy: AccuracyRecord | None = None
    float_student: AccuracyRecord | None = None
    random_weights: str | None = None
    learned_from: tuple[Overlap, ...] = ()


@dataclass(frozen=True)
class Judgement:
    """One limit of a budget, and the value of the model.

    Attributes:
        limit: the largest value, or for FLOORS the smallest.
        value: with its 95% interval, in the unit of the limit; None if it was not measured.
        met: whether the value is within the limit; None if it cannot be judged.
        by_doubt: the doubt that decides `met`, whatever the value.
        of_class: the class with the lowest recall, of the limit `recall`.
    """

    name: LimitName
    limit: float
    value: Share | None
    met: bool | None
    by_doubt: Literal["constant_guess", "learned_from"] | None = None
    of_class: ClassRecall | None = None

    @property
    def may_be_chance(self) -> bool:
        """Whether the limit lies inside the interval of the value."""
        return self.value is not None and self.value.low <= self.limit <= self.value.high


@dataclass(frozen=True)
class NotBetterThanConstantGuess:
    """On the same images, the model is not shown to be better than always answering the commonest class.

    Attributes:
        drop: accuracy of the constant guess minus accuracy of the model.
    """

    guess: ConstantGuess
    top1: Share
    drop: Drop


@dataclass(frozen=True)
class MissedClasses:
    """Classes that are never recognized, or less often than by a guess among all classes.

    The recall's interval ends below MISSED, or, if a prediction is right, below the share of one class among all.
    """

    classes: tuple[ClassRecall, ...]


@dataclass(frozen=True)
class RandomWeights:
    """Weights of the model are random."""

    sentence: str


@dataclass(frozen=True)
class LearnedTestImages:
    """The model learned from images of the test set."""

    overlaps: tuple[Overlap, ...]


@dataclass(frozen=True)
class FewTestImages:
    """The interval of top-1 is wider than WIDEST_INTERVAL.

    Attributes:
        enough: the number of images that would give an interval of WIDEST_INTERVAL, if top-1 stayed the same.
    """

    n: int
    top1: Share
    enough: int


Doubt: TypeAlias = NotBetterThanConstantGuess | RandomWeights | MissedClasses | LearnedTestImages | FewTestImages


@dataclass(frozen=True)
class Verdict:
    """Every limit of the budget with the model's value, and doubts about the model's accuracy, the gravest first."""

    judgements: tuple[Judgement, ...]
    doubts: tuple[Doubt, ...]

    @property
    def meets_budget(self) -> bool | None:
        """False if a limit is exceeded; None if a limit cannot be judged, or the budget has no limit."""
        outcomes = [judgement.met for judgement in self.judgements]
        if False in outcomes:
            return False
        return None if None in outcomes or not outcomes else True


def judge(records: Records, budget: Budget) -> Verdict:
    """The verdict on a model.

    The measured value decides whether a limit is met, not its interval. There are two exceptions. A model that is not
    shown to be better than a constant guess meets no limit on accuracy. A floor on accuracy that would be met cannot be
    judged if the model learned from test images.
    """
    doubts = tuple(_doubts(records))
    kinds = {type(doubt) for doubt in doubts}
    judgements = tuple(_in_doubt(judgement, kinds) for judgement in _judgements(records, budget))
    return Verdict(judgements, doubts)


def compared_with_constant_guess(accuracy: AccuracyRecord) -> Drop:
    """Accuracy of the constant guess minus accuracy of the model, on the same images."""
    return paired_drop(accuracy.correct_by_constant_guess, accuracy.correct)


def drop_between(baseline: AccuracyRecord, model: AccuracyRecord) -> Drop | None:
    """The loss of top-1 over the images that both models were measured on; None without such images."""
    places = {name: place for place, name in enumerate(baseline.sample_ids)}
    shared = [place for place, name in enumerate(model.sample_ids) if name in places]
    if not shared:
        return None
    before = baseline.correct[[places[model.sample_ids[place]] for place in shared]]
    return paired_drop(before, model.correct[shared])


# Doubts -------------------------------------------------------------------------------------------------------


def _doubts(records: Records) -> Iterator[Doubt]:
    accuracy = records.accuracy
    if accuracy is not None:
        drop = compared_with_constant_guess(accuracy)
        if drop.high >= 0:
            yield NotBetterThanConstantGuess(accuracy.constant_guess, accuracy.top1, drop)
    if records.random_weights is not None:
        yield RandomWeights(records.random_weights)
    if accuracy is None:
        return
    if missed := tuple(_missed(accuracy)):
        yield MissedClasses(missed)
    if records.learned_from:
        yield LearnedTestImages(records.learned_from)
    if accuracy.top1.high - accuracy.top1.low > WIDEST_INTERVAL:
        yield FewTestImages(accuracy.n, accuracy.top1, _enough_images(accuracy.top1.value))


def _missed(accuracy: AccuracyRecord) -> Iterator[ClassRecall]:
    by_guess = min(MISSED, 1 / len(accuracy.recalls))
    for each in accuracy.recalls:
        if each.recall.high < (by_guess if each.correct else MISSED):
            yield each


def _enough_images(top1: float) -> int:
    """The smallest number of images whose interval is no wider than WIDEST_INTERVAL."""
    intervals = ((n, *wilson_interval(top1 * n, n)) for n in count(1))
    return next(n for n, low, high in intervals if high - low <= WIDEST_INTERVAL)


# Limits -------------------------------------------------------------------------------------------------------


def _judgements(records: Records, budget: Budget) -> Iterator[Judgement]:
    values = _values(records)
    for name in get_args(LimitName):
        limit, value = getattr(budget, name), values.get(name)
        if limit is None:
            continue
        met = None if value is None else value.value >= limit if name in FLOORS else value.value <= limit
        lowest = records.accuracy.recalls[0] if name == "recall" and records.accuracy else None
        yield Judgement(name, limit, value, met, of_class=lowest)


def _values(records: Records) -> dict[LimitName, Share]:
    """The measured value of each limit."""
    values: dict[LimitName, Share] = {}
    if latency := records.latency:
        values["latency_ms"] = Share(latency.p50_ms, latency.p50_low_ms, latency.p50_high_ms)
    if records.size_bytes is not None:
        size_mib = records.size_bytes / 2**20
        values["size_mib"] = Share(size_mib, size_mib, size_mib)
    if accuracy := records.accuracy:
        values |= {"top1": accuracy.top1, "balanced_accuracy": accuracy.balanced_accuracy}
        values["recall"] = accuracy.recalls[0].recall
        if records.float_student and (drop := drop_between(records.float_student, accuracy)):
            values["top1_drop"] = Share(drop.value, drop.low, drop.high)
    return values


def _in_doubt(judgement: Judgement, doubts: set[type[Doubt]]) -> Judgement:
    """The judgement, with the consequences of doubts."""
    if not judgement.met or judgement.name not in ON_ACCURACY:
        return judgement
    if NotBetterThanConstantGuess in doubts:
        return replace(judgement, met=False, by_doubt="constant_guess")
    if LearnedTestImages in doubts and judgement.name in FLOORS:
        return replace(judgement, met=None, by_doubt="learned_from")
    return judgement
