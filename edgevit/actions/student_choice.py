"""The student that `init` writes: the most capable one within the budget, timed untrained on the target."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from edgevit.configs import Export, Profile, Quantize
from edgevit.configs.targets import LOCAL_GPU
from edgevit.context import Context
from edgevit.errors import ArtifactError, CheckFailed, RecipeError
from edgevit.models import bodies, catalogue
from edgevit.models.cost import macs_of
from edgevit.models.creation import create_model
from edgevit.models.pretrained import can_be_had, check_pretrained, model_of_weights
from edgevit.models.timm_models import check_model_name
from edgevit.selection.candidates import MS_PER_GMAC, Candidate, measured, shortlist, sizes_of
from edgevit.selection.choice import MOST_TIMINGS, ROOM, Choice, meets, most_capable, predicted_ms
from edgevit.selection.kept import timed
from edgevit.selection.records import DeployedForm, Student, Timing

TEACHER = "resnet50.a1_in1k"
STUDENT = "tiny_vit_5m_224"  # without a latency budget
USUAL_SIZES = (96, 128, 160, 192, 224)
SMALLEST_SHARE_OF_WEIGHTS = 0.35  # of the side that weights were trained at
_DOUBT = "; the timings were disturbed, so try again on a quieter machine, too"
FAR = 2.5  # larger students of other architectures are timed if they are predicted within this factor of the limit
IMAGES_FOR_A_BODY = 10_000  # to train on; with more, larger students with random weights come before a body
UNTIMED_SIDE = 160  # largest side of a student with weights from a file, without a latency budget


@dataclass(frozen=True)
class Weights:
    """Pretrained weights of a model: from a file, or timm's own if `file` is None."""

    model: str
    file: Path | None = None

    @property
    def architecture(self) -> str:
        return architecture(self.model)

    @property
    def is_body(self) -> bool:
        """Whether the weights come with edgevit."""
        return self.file is None and bodies.is_body(self.model)

    def __str__(self) -> str:
        if self.is_body:
            return f"body: {self.model}, which comes with edgevit"
        return f"{self.model}, weights of timm" if self.file is None else f"{self.model}, weights of {self.file.name}"


@dataclass(frozen=True)
class WeightSources:
    """The pretrained weights that can be had.

    Attributes:
        file: weights that the user gave.
        offline: nothing is asked of the hub.
        asked_teacher: the teacher that the user named.
        prefers_bodies: students that start from a body come before larger ones with random weights. See `for_images`.
    """

    file: Weights | None = None
    offline: bool = False
    asked_teacher: str | None = None
    prefers_bodies: bool = True

    def for_images(self, count: int) -> WeightSources:
        """The sources for a number of images to train on: with many, a larger student learns to see from them."""
        return replace(self, prefers_bodies=count <= IMAGES_FOR_A_BODY)

    @cached_property
    def teacher(self) -> Weights | None:
        """The teacher's weights: those the user named, or the file's, or timm's; None if none can be had.

        Raises ArtifactError if the weights of the teacher that the user named cannot be had.
        """
        if self.asked_teacher is not None:
            if self.file and self.file.architecture == architecture(self.asked_teacher):
                return self.file
            if not can_be_had(self.asked_teacher, self.offline):
                if not self.offline:
                    check_pretrained(self.asked_teacher)
                raise ArtifactError(
                    f"the pretrained weights of {self.asked_teacher} are not on this machine",
                    where="--teacher",
                    next="leave --offline out, or give its weights with --weights FILE",
                )
            return Weights(self.asked_teacher)
        if self.file is not None:
            return self.file
        return Weights(TEACHER) if can_be_had(TEACHER, self.offline) else None

    def start_of(self, model: str) -> Weights | None:
        """The weights that a student starts from; None if its start is random."""
        if self.file and self.file.architecture == architecture(model):
            return self.file
        return Weights(model) if can_be_had(model, self.offline) else None


@dataclass(frozen=True)
class ChosenStudent:
    """A student for a recipe.

    Attributes:
        start: its pretrained weights; None if it starts from random ones.
        timing: None if there is no latency budget.
        choice: what else was timed; None if nothing was.
    """

    candidate: Candidate
    start: Weights | None
    timing: Timing | None = None
    choice: Choice | None = None


def weights_from(file: Path | None, teacher: str | None, student: str | None, offline: bool) -> WeightSources:
    """The sources of weights from the options of `init`.

    Raises:
        ArtifactError: there is no such file.
        RecipeError: the model of the file is not known, or timm has no such model.
    """
    for name in filter(None, (teacher, student)):
        check_model_name(name)
    if file is None:
        return WeightSources(None, offline, teacher)
    if not file.is_file():
        raise ArtifactError("there is no such file", where=file, expected="--weights: .safetensors, .pth, .pt or .th")
    model = model_of_weights(file) or teacher or student
    if model is None:
        raise RecipeError(
            "the model of these weights is not known",
            where=file,
            expected="a file that is named after a timm model",
            next="add --teacher NAME, the timm model of the weights",
        )
    return WeightSources(Weights(model, file), offline, teacher)


def deployed_form(target: str, size_mib: float | None = None) -> DeployedForm:
    """The stages after the student in a recipe of `init` whose budget has this size."""
    if target == LOCAL_GPU:
        return DeployedForm(Profile(stage="profile", id="latency", model="student", target=target, precision="float16"))
    return DeployedForm(
        Profile(stage="profile", id="latency", model="int8", target=target),
        Export(stage="export", id="onnx", model="student"),
        Quantize(stage="quantize", id="int8", model="onnx", calibration="images", target=target, size_mib=size_mib),
    )


def choose_student(
    sources: WeightSources,
    asked: str | None,
    time: Callable[[Candidate], Timing],
    latency_ms: float | None,
    size_mib: float | None,
    where: str = "here",
) -> ChosenStudent:
    """The most capable student within the limits. See `_groups` for which students come before others.

    Args:
        asked: the student that the user named; its image size is still chosen.
        time: times one candidate untrained, or predicts its latency.
        where: the machine, for the error.

    Raises:
        CheckFailed: no student meets the budget; the error names a budget that can be met.
    """
    groups = list(_groups(sources, asked))
    if latency_ms is None:
        candidate = _without_budget(groups, sources, asked)
        return ChosenStudent(candidate, sources.start_of(candidate.model))
    choices: list[Choice] = []
    for group in groups:
        left = MOST_TIMINGS - sum(len(choice.timings) for choice in choices)
        choices.append(most_capable(group, latency_ms, time, size_mib, left))
        if (best := choices[-1].best) is not None:
            return ChosenStudent(best, sources.start_of(best.model), choices[-1].timings[best], choices[-1])
    raise no_student(choices, latency_ms, size_mib, where)


def students_within(
    sources: WeightSources,
    time: Callable[[Candidate], Timing],
    latency_ms: float,
    size_mib: float | None,
    most: int,
    where: str = "here",
) -> dict[Candidate, Timing]:
    """The most capable students within the limits, each of another architecture; at most `most`.

    Students with pretrained weights come first, then bodies. Those with random weights fill the places that are left.

    Args:
        time, where: see `choose_student`.

    Raises:
        CheckFailed: no student meets the budget; the error names a budget that can be met.
    """
    choices: list[Choice] = []
    within: dict[Candidate, Timing] = {}
    for group in dict.fromkeys(map(tuple, (*_groups(sources, None), shortlist()))):
        choices.append(most_capable(group, latency_ms, time, size_mib))
        if choices[-1].best is not None:
            within = students_of_group(choices[-1], group, time, most, within)
    if not within:
        raise no_student(choices, latency_ms, size_mib, where)
    return within


def students_of_group(
    choice: Choice,
    group: Sequence[Candidate],
    time: Callable[[Candidate], Timing],
    most: int,
    before: dict[Candidate, Timing] | None = None,
) -> dict[Candidate, Timing]:
    """Students of a group that are within the limits of a choice, the largest first; at most `most`.

    Each is of another architecture. Between architectures, the expected latencies may be wrong by a factor of two on
    another processor than theirs. So larger students than the best of the choice are timed too, one of each
    architecture, if they are predicted within `FAR` of the limit.

    Args:
        choice: with a best student.
        group: by rising MACs.
        before: students of other groups, which stay.
    """
    assert choice.best is not None
    limit_ms, timings = ROOM * choice.latency_ms, dict(choice.timings)
    others, larger = {architecture(choice.best.model)}, list[Candidate]()
    for candidate in group:
        if candidate.macs > choice.best.macs and architecture(candidate.model) not in others:
            others.add(architecture(candidate.model))
            if predicted_ms(candidate, timings) <= FAR * limit_ms:
                timings[candidate] = time(candidate)
                larger.append(candidate)
    fitting = [each for each in group if each.macs <= choice.best.macs or each in larger]
    return _filled_up(before or {}, fitting, time, choice.latency_ms, choice.size_mib, most)


def _filled_up(
    within: dict[Candidate, Timing],
    group: Sequence[Candidate],
    time: Callable[[Candidate], Timing],
    latency_ms: float,
    size_mib: float | None,
    most: int,
) -> dict[Candidate, Timing]:
    """Students and those of a group, the largest first, that are within the limits; each of another architecture."""
    within = dict(within)
    for candidate in reversed(group):
        if len(within) == most:
            break
        if architecture(candidate.model) not in {architecture(taken.model) for taken in within}:
            timing = time(candidate)
            within |= {candidate: timing} if meets(timing, latency_ms, size_mib) else {}
    return within


def timer(num_classes: int, form: DeployedForm, context: Context) -> Callable[[Candidate], Timing]:
    """Times candidates, each once, or takes their kept timings; says a line about each."""
    known: dict[Candidate, Timing] = {}

    def time(candidate: Candidate) -> Timing:
        if candidate in known:
            return known[candidate]
        student = Student(model=candidate.model, image_size=candidate.image_size, num_classes=num_classes)
        timing = timed(student, form, context, disturbed_again=True)
        doubt = ", disturbed" if timing.warnings else ""
        context.progress.say(f"    {timing.p50_ms:.3g} ms: {candidate} ({timing.form}{doubt})")
        if timing.warnings and not any(other.warnings for other in known.values()):
            context.progress.say(f"    disturbed: {timing.warnings[0]}")
        known[candidate] = timing
        return timing

    return time


def no_student(choices: Sequence[Choice], latency_ms: float, size_mib: float | None, where: str) -> CheckFailed:
    """The error that no student meets the budget.

    Args:
        where: the machine: "here", "on pi", or "on orin-nano-8gb, as predicted".
    """
    timings = {candidate: timing for choice in choices for candidate, timing in choice.timings.items()}
    fastest = min(timings, key=lambda candidate: timings[candidate].p50_ms)
    budget_ms = min((ms for choice in choices if (ms := choice.least_budget_ms) is not None), default=None)
    limits = f"{latency_ms:g} ms" + (f" and {size_mib:g} MiB" if size_mib is not None else "")
    fast_enough = [timing.size_bytes / 2**20 for timing in timings.values() if meets(timing, latency_ms, None)]
    if budget_ms is not None and budget_ms > latency_ms:
        option = f"--latency-ms {rounded_up(budget_ms):g}"
    elif fast_enough:
        option = f"--size-mib {rounded_up(min(fast_enough)):g}"
    else:
        least_ms = min(timing.p50_high_ms for timing in timings.values()) / ROOM
        option = f"--latency-ms {rounded_up(least_ms):g} without --size-mib"
    first, students, smaller = timings[fastest], "student", ""
    if size_mib is not None:  # the shortlist is by latency
        students, smaller = (
            "student of the shortlist",
            "; edgevit models lists smaller ones, for edgevit init --student",
        )
    can_be_met = "is predicted to be met" if first.is_predicted else "can be met"
    doubt = _DOUBT if any(timing.warnings for timing in timings.values()) else ""
    return CheckFailed(
        f"no {students} meets the budget of {limits} {where}",
        got=f"{first.p50_ms:.2g} ms ({first.interval()}) for {fastest}, the fastest of {len(timings)}",
        expected=f"upper bound of the interval at most {ROOM:.0%} of the budget, to leave room for scatter",
        next=f"{option} {can_be_met}{doubt}{smaller}",
    )


def rounded_up(value: float) -> float:
    """A value with two significant digits, rounded up."""
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return round(math.ceil(value / step - 1e-9) * step, 10)


def architecture(model: str) -> str:
    """A timm name without the tag of its weights."""
    return model.partition(".")[0]


def _groups(sources: WeightSources, asked: str | None) -> Iterator[Sequence[Candidate]]:
    """Candidates by rising MACs: those with weights of timm or of a file, then bodies, then those with random ones."""
    if asked is not None:
        yield _sizes_of_model(asked)
        return
    names = [entry.name for entry in catalogue.read()]
    of_timm = shortlist([name for name in names if can_be_had(name, sources.offline)])
    of_file = _sizes_of_model(sources.file.model) if sources.file is not None and not of_timm else ()
    untaught = () if of_timm else shortlist()
    last = (sizes_of_bodies(), untaught) if sources.prefers_bodies else (untaught, sizes_of_bodies())
    yield from filter(None, (of_timm, of_file, *last))


def sizes_of_bodies() -> tuple[Candidate, ...]:
    """Students that start from a body, by rising MACs."""
    sizes = (size for body in bodies.read() for size in _sizes_of_model(body.name))
    return tuple(sorted(sizes, key=lambda candidate: candidate.macs))


def _sizes_of_model(model: str) -> Sequence[Candidate]:
    """One model at each size that it can take."""
    entry = next((entry for entry in catalogue.read() if entry.name == architecture(model)), None)
    if entry is not None:
        row = next((row for row in measured() if row.name == entry.name), None)
        expected_ms = row.latency_ms if row is not None else entry.macs / 1e9 * MS_PER_GMAC
        largest = Candidate(model=model, image_size=entry.default_size, macs=entry.macs, expected_ms=expected_ms)
        return tuple(sizes_of(largest, entry.tested_sizes))
    built = create_model(model, None)
    side = built.preprocess.height
    macs = macs_of(built.module, side, side)
    largest = Candidate(model=model, image_size=side, macs=macs, expected_ms=macs / 1e9 * MS_PER_GMAC)
    is_fixed = "img_size" in create_model(model, None, side).description.model_args
    return tuple(sizes_of(largest, () if is_fixed else USUAL_SIZES, SMALLEST_SHARE_OF_WEIGHTS))


def _without_budget(groups: Sequence[Sequence[Candidate]], sources: WeightSources, asked: str | None) -> Candidate:
    """The student that the user named, or the usual one, or a model with the weights of the file, or a body.

    With many images and no pretrained weights, it is the usual one with random weights.
    """
    if asked is not None:
        return groups[0][-1]
    if not can_be_had(STUDENT, sources.offline) and (sources.file is not None or sources.prefers_bodies):
        small = [candidate for candidate in groups[0] if candidate.image_size <= UNTIMED_SIDE]
        return (small or list(groups[0]))[-1]
    (usual,) = _sizes_of_model(STUDENT)[-1:]
    return usual
