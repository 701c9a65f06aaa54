"""The verdict on the budget in words: a headline, doubts about the model's numbers, and a reason for each limit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgevit.artifacts import Json
from edgevit.budget import (
    FLOORS,
    WIDEST_INTERVAL,
    ClassesWithoutRightPrediction,
    Doubt,
    FewTestImages,
    InvalidLatency,
    Judgement,
    LearnedTestImages,
    MissedClasses,
    NotBetterThanConstantGuess,
    RandomWeights,
    Records,
    UntestedEngine,
    Verdict,
    judge,
    shared_images,
)
from edgevit.configs import Budget
from edgevit.configs.runtimes import TENSORRT
from edgevit.data.duplicates import Overlap
from edgevit.errors import listed
from edgevit.evaluation import Share
from edgevit.evaluation.accuracy_record import ClassRecall
from edgevit.profiling.energy import EnergyRecord
from edgevit.provenance import untrained
from edgevit.report.lineage import MOST_IMAGES
from edgevit.report.text.numbers import interval_percent, milliseconds, percent, size
from edgevit.report.variants import Lineup, Variant
from edgevit.runtimes.base import runtime_of
from edgevit.terminal import points

SHOWN = 5  # classes in a sentence
NO_BUDGET = "No budget was given."
VERDICTS: dict[bool | None, str] = {True: "Yes, it meets the budget.", False: "No, it does not meet the budget."}
WITHIN_LIMITS = "The measured values are within the limits of the budget."  # beside a doubt, in place of a yes
UNKNOWN = "The budget cannot be judged: a measurement is missing."
IN_DOUBT = "The budget cannot be judged."
TONES: dict[bool | None, str] = {True: "yes", False: "no", None: "unknown"}
NAMES = {
    "latency_ms": "Latency",
    "energy_mj": "Energy",
    "size_mib": "Size",
    "top1_drop": "Accuracy",
    "top1": "Top-1",
    "balanced_accuracy": "Balanced accuracy",
    "recall": "Recall",
}
KINDS: dict[type[Doubt], str] = {
    NotBetterThanConstantGuess: "constant_guess",
    RandomWeights: "random_weights",
    UntestedEngine: "untested_engine",
    InvalidLatency: "invalid_latency",
    MissedClasses: "missed_classes",
    LearnedTestImages: "learned_from",
    ClassesWithoutRightPrediction: "classes_without_right_prediction",
    FewTestImages: "few_images",
}
GRAVE = (NotBetterThanConstantGuess, RandomWeights, UntestedEngine, InvalidLatency, MissedClasses)


def verdict_on(models: Lineup, budget: Budget) -> Verdict:
    """The verdict on the deployed model."""
    deployed, student = models.deployed, models.float_student
    records = Records(
        deployed.size_bytes,
        deployed.timing,
        deployed.accuracy,
        student.accuracy if student else None,
        untrained(deployed.model),
        deployed.learned_from,
        models.of_other_head,
        deployed.model.id if runtime_of(deployed.model) == TENSORRT.name else None,
    )
    return judge(records, budget)


def verdict_json(verdict: Verdict, models: Lineup) -> Json:
    """The verdict for programs: `meets_budget`, a reason and a record for each limit, and the doubts."""
    return {
        "meets_budget": verdict.meets_budget,
        "reasons": [_reason(judgement, models) for judgement in verdict.judgements] or [NO_BUDGET],
        "limits": [
            {
                "name": judgement.name,
                "limit": judgement.limit,
                **(judgement.value._asdict() if judgement.value else dict.fromkeys(("value", "low", "high"))),
                "met": judgement.met,
            }
            for judgement in verdict.judgements
        ],
        "doubts": [
            {
                "kind": KINDS[type(doubt)],
                "tone": tone(doubt),
                "headline": headline(doubt),
                "sentence": explanation(doubt),
            }
            for doubt in verdict.doubts
        ],
    }


def outcome(verdict: Verdict) -> Json:
    """The headline with its tone (yes, no, doubtful or unknown), and the verdict on the budget in a sentence.

    The first doubt makes the headline. With a doubt, the sentence is never a yes.
    """
    meets = verdict.meets_budget
    answer = VERDICTS.get(meets, UNKNOWN) if verdict.judgements else NO_BUDGET
    if not verdict.doubts:
        return {"headline": answer, "tone": TONES[meets], "verdict": answer}
    first = verdict.doubts[0]
    return {
        "headline": headline(first),
        "tone": tone(first),
        "verdict": WITHIN_LIMITS if meets else IN_DOUBT if answer == UNKNOWN else answer,
    }


# Doubts -------------------------------------------------------------------------------------------------------


def tone(doubt: Doubt) -> str:
    """The color of a doubt: no or doubtful."""
    return "no" if isinstance(doubt, GRAVE) else "doubtful"


def headline(doubt: Doubt) -> str:
    """A doubt in a few words."""
    match doubt:
        case NotBetterThanConstantGuess(guess, _, drop):
            worse = "Worse than" if drop.low > 0 else "Not shown to be better than"
            return f"{worse} always answering '{guess.name}'."
        case RandomWeights():
            return "The deployed model has random weights."
        case UntestedEngine(id):
            return f"The accuracy of the engine {id} was not measured."
        case InvalidLatency():
            return "The latency of the deployed model is invalid."
        case MissedClasses(classes):
            return f"{_subject(classes)} {_how_rarely(classes)}."
        case LearnedTestImages():
            return "The model learned from test images."
        case ClassesWithoutRightPrediction(classes, of):
            return f"{len(classes):,} of {of:,} classes have no right prediction."
        case FewTestImages(_, top1):
            return f"Too few test images: the accuracy may be anywhere from {top1.low:.0%} to {top1.high:.0%}."


def explanation(doubt: Doubt) -> str:
    """A doubt with its numbers."""
    match doubt:
        case NotBetterThanConstantGuess():
            return _beside_constant_guess(doubt)
        case RandomWeights(sentence):
            return f"{sentence[:1].upper()}{sentence[1:]}."
        case UntestedEngine():
            return "TensorRT has built fast engines with wrong outputs. Evaluate the engine on its target, too."
        case InvalidLatency(reasons):
            said = "; ".join(reasons)
            return f"{said[:1].upper()}{said[1:]}. No budget is judged by this latency. Measure it again."
        case MissedClasses(classes):
            names = [f"'{each.name}' ({each.correct:,} of {each.n:,} images)" for each in classes]
            return f"Right predictions: {listed(names, SHOWN)}."
        case LearnedTestImages(overlaps, top1, at_worst):
            return f"{'; '.join(map(_overlap, overlaps))}. {_by_size(overlaps, top1, at_worst)}"
        case ClassesWithoutRightPrediction(classes):
            most = max(each.n for each in classes)
            said = listed([f"'{each.name}'" for each in classes], SHOWN)
            return (
                f"{said}. Each of them has at most {most:,} test "
                f"image{'s' if most > 1 else ''}, too few to tell whether the model recognizes it."
            )
        case FewTestImages(n, top1, enough):
            return (
                f"Top-1 is {percent(top1.value)} on {n:,} test images. Its 95% interval is "
                f"{points(top1.high - top1.low)} points wide. With {enough:,} images, it would be "
                f"{points(WIDEST_INTERVAL)} points wide or less."
            )


def _beside_constant_guess(doubt: NotBetterThanConstantGuess) -> str:
    gain = doubt.drop
    return (
        f"The model is right for {percent(doubt.top1.value)} of the {gain.n:,} test images. Always answering "
        f"'{doubt.guess.name}' is right for {percent(doubt.guess.accuracy)}. The difference is {points(-gain.value)} "
        f"points (95% interval {points(-gain.high)} to {points(-gain.low)}, on the same images)."
    )


def _subject(classes: Sequence[ClassRecall]) -> str:
    return f"{len(classes)} classes are" if len(classes) > 1 else f"The class '{classes[0].name}' is"


def _how_rarely(classes: Sequence[ClassRecall]) -> str:
    if any(each.correct for each in classes):
        return "recognized less often than by a random guess"
    return "never recognized"


def _by_size(overlaps: Sequence[Overlap], top1: Share, at_worst: float) -> str:
    if shared_images(overlaps).share >= MOST_IMAGES:
        return "So the accuracy says little about new images."
    return f"Top-1 is {percent(top1.value)}, and {percent(at_worst)} if these images are counted as wrong."


def _overlap(overlap: Overlap) -> str:
    without_labels = "" if overlap.labelled else ", without labels"
    return f"{overlap.images:,} of the {overlap.of:,} test images are also in {overlap.data}{without_labels}"


# Limits -------------------------------------------------------------------------------------------------------


def _reason(judgement: Judgement, models: Lineup) -> str:
    """A limit, the measured value, and the role of its interval."""
    value, how = judgement.value, models.deployed.how_predicted
    said = _not_measured(judgement, models) if value is None else _measured(judgement, value, how)
    return " ".join([f"{NAMES[judgement.name]}: {said}", *_remarks(judgement)])


def _measured(judgement: Judgement, value: Share, how: str | None) -> str:
    limit, is_floor = judgement.limit, judgement.name in FLOORS
    if is_floor:
        of_class = f" of the images of '{judgement.of_class.name}', the lowest" if judgement.of_class else ""
        interval = f"95% interval {interval_percent(value._asdict())}%{f', by {how}' if how else ''}"
        enough = "at least" if value.value >= limit else "below"
        return f"{percent(value.value)}{of_class} ({interval}), {enough} the {percent(limit)} asked for."
    against = "within the limit of" if value.value <= limit else "over the limit of"
    if judgement.name == "latency_ms":
        return f"p50 {milliseconds(value.value)}, {against} {limit:g} ms."
    if judgement.name == "energy_mj":
        interval = f"95% interval {value.low:.3g} to {value.high:.3g}"
        return f"{value.value:.3g} mJ for an image ({interval}), {against} {limit:g} mJ."
    if judgement.name == "size_mib":
        return f"{size(value.value * 2**20)}, {against} {limit:g} MiB."
    lost = f"loses {points(value.value)} points of top-1" if value.value > 0 else "loses no top-1"
    return f"{lost} against the float student, {against} {points(limit)} points."


def _not_measured(judgement: Judgement, models: Lineup) -> str:
    deployed, student = models.deployed, models.float_student
    if judgement.name == "top1_drop":
        name = student.id if student else "a float student"
        return f"{name} and {deployed.id} were not measured on the same images, by the same protocol."
    if judgement.name == "latency_ms" and deployed.timing is not None:
        label = deployed.timing.label if deployed.timing.label != "measured" else "invalid"
        return f"the latency of {deployed.id} is {label}, so the limit of {judgement.limit:g} ms cannot be judged."
    if judgement.name == "energy_mj":
        return f"{_no_energy(deployed)}, so the limit of {judgement.limit:g} mJ cannot be judged."
    limit = f"{judgement.limit:g} ms" if judgement.name == "latency_ms" else percent(judgement.limit)
    return f"{deployed.id} was not measured, so the limit of {limit} cannot be judged."


def _no_energy(deployed: Variant) -> str:
    """Why there is no energy to judge."""
    energy = deployed.timing.energy if deployed.timing else None
    if isinstance(energy, EnergyRecord):
        if energy.label != "measured":
            return f"the energy of {deployed.id} is {energy.label}"
        if energy.invalid:
            return f"the energy of {deployed.id} is invalid: {'; '.join(energy.invalid)}"
        interval = f"95% interval {energy.low_mj:.3g} to {energy.high_mj:.3g} mJ"
        return f"the energy of {deployed.id} is not told apart from 0 ({interval})"
    return f"the energy of {deployed.id} was not measured{f': {energy.reason}' if energy else ''}"


def _remarks(judgement: Judgement) -> Iterator[str]:
    if judgement.name != "size_mib" and judgement.may_be_chance:
        yield "The limit lies inside the 95% interval."
    if judgement.by_doubt == "constant_guess":
        yield "Not met, because the model is not shown to be better than a constant guess."
    if judgement.by_doubt == "learned_from":
        yield "Not judged, because the model learned from test images that could decide it."
    if judgement.by_doubt == "other_head":
        yield "Not judged, because this is not the head of the deployed model."
