"""Whether a deployed model meets a budget, and doubts about its numbers. Data only: a report writes the sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Literal, NamedTuple, TypeAlias, get_args

import numpy as np

from edgevit.configs import Budget
from edgevit.data.duplicates import Overlap
from edgevit.evaluation.accuracy import Share, wilson_interval
from edgevit.evaluation.accuracy_record import AccuracyRecord, ClassRecall, ConstantGuess
from edgevit.evaluation.paired import Drop, paired_drop
from edgevit.profiling.energy import EnergyRecord
from edgevit.profiling.latency_record import LatencyRecord

WIDEST_INTERVAL = 0.2  # of top-1: with a wider one, there are too few test images
MISSED = 0.5  # a class without a right prediction is missed if a recall of at least MISSED is ruled out
LEVEL = 0.05  # the chance of a missed class among all classes, if every class is recognized
MANY_CLASSES = 0.25  # of all classes: so many without a right prediction are a doubt, however few images they have
LARGE_SHARE = 0.01  # of test images: with more of them learned from, there is a doubt, whatever the limits

LimitName: TypeAlias = Literal[
    "latency_ms", "energy_mj", "size_mib", "top1_drop", "top1", "balanced_accuracy", "recall"
]
FLOORS: tuple[LimitName, ...] = ("top1", "balanced_accuracy", "recall")
ON_ACCURACY: tuple[LimitName, ...] = ("top1_drop", *FLOORS)


@dataclass(frozen=True)
class Records:
    """The measurements of a deployed model. None: not measured.

    Attributes:
        float_student: the float source of the model, for `top1_drop`.
        latency: it and its energy are judged if they were measured, and are valid; a stand-in for a board replays
            recorded times and recorded power.
        random_weights: a sentence about untrained weights; None if all weights are trained.
        learned_from: the test images that the model learned from.
        engine: the id of the model, if it is a TensorRT engine.
        of_other_head: whether `accuracy` is that of another head on the model's features, as in cross-validation.
    """

    size_bytes: int | None = None
    latency: LatencyRecord | None = None
    accuracy: AccuracyRecord | None = None
    float_student: AccuracyRecord | None = None
    random_weights: str | None = None
    learned_from: tuple[Overlap, ...] = ()
    of_other_head: bool = False
    engine: str | None = None


class SharedImages(NamedTuple):
    """Test images that a model learned from. An image in two data sets is counted twice.

    Attributes:
        share: of the test images, 0 to 1.
    """

    images: int
    share: float


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
    by_doubt: Literal["constant_guess", "learned_from", "other_head"] | None = None
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

    A recall of MISSED is ruled out, or, if a prediction is right, a recall of one class among all. The exact binomial
    tests are corrected for the number of classes (Holm 1979).
    """

    classes: tuple[ClassRecall, ...]


@dataclass(frozen=True)
class ClassesWithoutRightPrediction:
    """Several classes without a right prediction, each with too few images for MissedClasses.

    Attributes:
        of: the number of classes with images.
    """

    classes: tuple[ClassRecall, ...]
    of: int


@dataclass(frozen=True)
class RandomWeights:
    """Weights of the model are random."""

    sentence: str


@dataclass(frozen=True)
class UntestedEngine:
    """The model is a TensorRT engine whose accuracy was not measured. TensorRT has built engines that are wrong."""

    id: str


@dataclass(frozen=True)
class InvalidLatency:
    """The latency is none of the device in its stated mode: the machine throttled, or its clock moved.

    Attributes:
        reasons: a sentence each, without a full stop.
    """

    reasons: tuple[str, ...]


@dataclass(frozen=True)
class LearnedTestImages:
    """The model learned from more than LARGE_SHARE of the test images, or from enough of them to decide a floor.

    Attributes:
        top1_at_worst: top-1 if every such image is counted as wrong.
    """

    overlaps: tuple[Overlap, ...]
    top1: Share
    top1_at_worst: float


@dataclass(frozen=True)
class FewTestImages:
    """The interval of top-1 is wider than WIDEST_INTERVAL.

    Attributes:
        enough: the number of images that would give an interval of WIDEST_INTERVAL, if top-1 stayed the same.
    """

    n: int
    top1: Share
    enough: int


Doubt: TypeAlias = (
    NotBetterThanConstantGuess
    | RandomWeights
    | UntestedEngine
    | InvalidLatency
    | MissedClasses
    | LearnedTestImages
    | ClassesWithoutRightPrediction
    | FewTestImages
)


@dataclass(frozen=True)
class Verdict:
    """Every limit of the budget with the model's value, and doubts about the model, the gravest first."""

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

    The measured value decides whether a limit is met, not its interval. There are three exceptions. A limit on accuracy
    cannot be judged by the accuracy of another head. A model that is not shown to be better than a constant guess meets
    no limit on accuracy. A floor on accuracy that is met cannot be judged if the model learned from test images, and
    the floor would not be met with these images counted as wrong.
    """
    judgements = tuple(_in_doubt(judgement, records) for judgement in _judgements(records, budget))
    decides = any(judgement.by_doubt == "learned_from" for judgement in judgements)
    return Verdict(judgements, tuple(_doubts(records, learned_decides=decides)))


def compared_with_constant_guess(accuracy: AccuracyRecord) -> Drop:
    """Accuracy of the constant guess minus accuracy of the model, on the same images."""
    return paired_drop(accuracy.correct_by_constant_guess, accuracy.correct)


def drop_between(baseline: AccuracyRecord | None, model: AccuracyRecord | None) -> Drop | None:
    """The loss of top-1 over the images that both models were measured on, by one protocol; None without such images.

    None too if a model was not measured.
    """
    if baseline is None or model is None or baseline.protocol != model.protocol:
        return None
    places = {name: place for place, name in enumerate(baseline.sample_ids)}
    shared = [place for place, name in enumerate(model.sample_ids) if name in places]
    if not shared:
        return None
    before = baseline.correct[[places[model.sample_ids[place]] for place in shared]]
    return paired_drop(before, model.correct[shared])


def shared_images(overlaps: Sequence[Overlap]) -> SharedImages:
    """The test images in these overlaps."""
    share = sum(overlap.images / overlap.of for overlap in overlaps)
    return SharedImages(sum(overlap.images for overlap in overlaps), min(1.0, share))


# Doubts -------------------------------------------------------------------------------------------------------


def _doubts(records: Records, learned_decides: bool) -> Iterator[Doubt]:
    accuracy = records.accuracy
    if accuracy is not None and not _beats_constant_guess(accuracy):
        drop = compared_with_constant_guess(accuracy)
        yield NotBetterThanConstantGuess(accuracy.constant_guess, accuracy.top1, drop)
    if records.random_weights is not None:
        yield RandomWeights(records.random_weights)
    if accuracy is None and records.engine is not None:
        yield UntestedEngine(records.engine)
    if records.latency is not None and records.latency.invalid:
        yield InvalidLatency(records.latency.invalid)
    if accuracy is None:
        return
    if missed := _missed(accuracy):
        yield MissedClasses(missed)
    if learned_decides or shared_images(records.learned_from).share > LARGE_SHARE:
        at_worst = _at_worst(accuracy, shared_images(records.learned_from).images)["top1"]
        yield LearnedTestImages(records.learned_from, accuracy.top1, at_worst)
    if unrecognized := _without_right_prediction(accuracy, missed):
        yield ClassesWithoutRightPrediction(unrecognized, len(accuracy.recalls))
    if accuracy.top1.high - accuracy.top1.low > WIDEST_INTERVAL:
        yield FewTestImages(accuracy.n, accuracy.top1, _enough_images(accuracy.top1.value))


def _beats_constant_guess(accuracy: AccuracyRecord) -> bool:
    return compared_with_constant_guess(accuracy).high < 0


def _missed(accuracy: AccuracyRecord) -> tuple[ClassRecall, ...]:
    """The classes whose recall is shown to be too low, by exact binomial tests with Holm's correction."""
    from scipy.special import bdtr  # a finished run does not need it

    by_guess = min(MISSED, 1 / len(accuracy.recalls))
    chances = np.array(
        [bdtr(each.correct, each.n, by_guess if each.correct else MISSED) for each in accuracy.recalls], np.float64
    )
    order = np.argsort(chances, kind="stable")
    passes = chances[order] <= LEVEL / np.arange(len(chances), 0, -1)
    rejected = set(order[: len(chances) if passes.all() else int(passes.argmin())].tolist())
    return tuple(each for place, each in enumerate(accuracy.recalls) if place in rejected)


def _without_right_prediction(accuracy: AccuracyRecord, missed: Sequence[ClassRecall]) -> tuple[ClassRecall, ...]:
    """The classes without a right prediction that are not in `missed`, if they are many; otherwise none.

    They are many if they are MANY_CLASSES of all, or if chance rarely gives so many where every recall is MISSED.
    """
    tested = [each for each in accuracy.recalls if each not in missed]
    classes = tuple(each for each in tested if not each.correct)
    if len(classes) < 2:
        return ()
    chance = _chance_of_at_least(len(classes), [MISSED**each.n for each in tested])
    return classes if chance <= LEVEL or len(classes) >= MANY_CLASSES * len(accuracy.recalls) else ()


def _chance_of_at_least(least: int, chances: Sequence[float]) -> float:
    """The probability of `least` successes or more in independent trials with these chances of success."""
    fewer = np.zeros(least)  # the probability of each number of successes below `least`
    fewer[0] = 1
    for chance in chances:
        fewer[1:] = fewer[1:] * (1 - chance) + fewer[:-1] * chance
        fewer[0] *= 1 - chance
    return 1 - float(fewer.sum())


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
    if (latency := records.latency) and latency.is_judged:
        values["latency_ms"] = Share(latency.p50_ms, latency.p50_low_ms, latency.p50_high_ms)
    if latency and isinstance(energy := latency.energy, EnergyRecord) and energy.is_judged:
        values["energy_mj"] = Share(energy.mj, energy.low_mj, energy.high_mj)
    if records.size_bytes is not None:
        size_mib = records.size_bytes / 2**20
        values["size_mib"] = Share(size_mib, size_mib, size_mib)
    if accuracy := records.accuracy:
        values |= {"top1": accuracy.top1, "balanced_accuracy": accuracy.balanced_accuracy}
        values["recall"] = accuracy.recalls[0].recall
        if records.float_student and (drop := drop_between(records.float_student, accuracy)):
            values["top1_drop"] = Share(drop.value, drop.low, drop.high)
    return values


def _in_doubt(judgement: Judgement, records: Records) -> Judgement:
    """The judgement, with the consequences of doubts."""
    accuracy, name = records.accuracy, judgement.name
    if accuracy is None or judgement.met is None or name not in ON_ACCURACY:
        return judgement
    if records.of_other_head:
        return replace(judgement, met=None, by_doubt="other_head")
    if not judgement.met:
        return judgement
    if not _beats_constant_guess(accuracy):
        return replace(judgement, met=False, by_doubt="constant_guess")
    at_worst = _at_worst(accuracy, shared_images(records.learned_from).images)
    if at_worst.get(name, judgement.limit) < judgement.limit:
        return replace(judgement, met=None, by_doubt="learned_from")
    return judgement


def _at_worst(accuracy: AccuracyRecord, shared: int) -> dict[LimitName, float]:
    """The lowest possible value of each floor if `shared` images, of unknown classes, are counted as wrong."""
    if not shared:
        return {}
    correct, lost, left = int(accuracy.correct.sum()), 0.0, shared
    for each in sorted(accuracy.recalls, key=lambda each: each.n):  # an image of a small class weighs most
        wrong = min(left, each.correct)
        lost, left = lost + wrong / each.n, left - wrong
    return {
        "top1": max(0, correct - shared) / accuracy.n,
        "balanced_accuracy": accuracy.balanced_accuracy.value - lost / len(accuracy.recalls),
        "recall": min(max(0, each.correct - shared) / each.n for each in accuracy.recalls),
    }
