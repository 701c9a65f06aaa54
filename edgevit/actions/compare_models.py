"""Models against the first of them: latencies interleaved in one run, accuracies on the same images."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

from edgevit.actions.single_stage import SingleStages, stage_config
from edgevit.artifacts import Artifact, Json
from edgevit.bounds import MOST_RACED
from edgevit.configs import Evaluate
from edgevit.configs.runtimes import RUNTIMES
from edgevit.configs.targets import LOCAL_CPU
from edgevit.errors import RecipeError
from edgevit.evaluation.paired import Drop, paired_drop
from edgevit.evaluation.record import correct_predictions
from edgevit.profiling import Comparison, Measurement, MeasurePlan
from edgevit.profiling.race import confidence_of_each
from edgevit.report.tables import html_table
from edgevit.runtimes.base import SessionOptions, fixed_batch, for_runtime, runtime_of
from edgevit.targets import target_for
from edgevit.terminal import printable_line


@dataclass(frozen=True)
class LossLimits:
    """What another model may lose against the first.

    Attributes:
        max_slowdown: its latency over the first's, minus 1.
        max_top1_drop: points of top-1, as a fraction.
    """

    max_slowdown: float = 0.0
    max_top1_drop: float = 0.0


NO_LOSS = LossLimits()


@dataclass(frozen=True)
class ComparedModel:
    """A model of a comparison: its name for people, the runtime that ran it, and its latency."""

    name: str
    runtime: str
    latency: Measurement

    def sentence(self) -> str:
        batch = self.latency.plan.batch_size
        images = f" for {batch} images" if batch > 1 else ""
        return f"p50 {self.latency.percentile_ms(50):.3g} ms{images}: {self.name} in {RUNTIMES[self.runtime].title}"

    def as_json(self) -> Json:
        return {"name": self.name, "runtime": self.runtime, "latency_ms": self.latency.summary()}


@dataclass(frozen=True)
class OtherModel(ComparedModel):
    """A model against the first.

    Attributes:
        comparison: of the first model with this one: `ratio` above 1 where this one is faster, `interval`.
        drop: the first model's top-1 minus this one's on the same images, where there were images.
    """

    comparison: Comparison
    drop: Drop | None = None

    @property
    def speed(self) -> str:
        """faster or slower than the first model beyond chance, or not told apart; replayed or invalid times."""
        if self.comparison.is_replayed:
            return "replayed"
        if self.comparison.invalid:
            return "invalid"
        interval = self.comparison.interval
        return "faster" if interval.low > 1 else "slower" if interval.high < 1 else "not told apart"

    def exceeded(self, limits: LossLimits) -> list[str]:
        """The limits that the model exceeds by more than chance explains. Replayed and invalid times exceed none."""
        is_slower = self.speed == "slower" and self.comparison.interval.high < 1 / (1 + limits.max_slowdown)
        is_less_accurate = self.drop is not None and self.drop.low > limits.max_top1_drop
        return ["max_slowdown"] * is_slower + ["max_top1_drop"] * is_less_accurate

    def speed_sentence(self, first: str) -> str:
        compared = self.comparison
        if self.speed == "replayed":
            return f"{self.name} against {first}: the times are replayed, so neither is shown to be faster"
        if self.speed == "invalid":
            return f"{self.name} against {first}: the timing is invalid, so neither is shown to be faster"
        said = {
            "faster": f"{self.name} is faster than {first}",
            "slower": f"{self.name} is slower than {first}",
        }.get(self.speed, f"{self.name} and {first} are not told apart in speed")
        return (
            f"{said}: {compared.ratio:.2f}× as fast ({self._interval} {compared.interval.low:.2f} to "
            f"{compared.interval.high:.2f})"
        )

    def drop_sentence(self) -> Iterator[str]:
        """One sentence; none without images."""
        if drop := self.drop:
            chance = ", which may be chance" if drop.may_be_chance else ""
            yield (
                f"{self.name} loses {drop.value * 100:.2f} points of top-1 "
                f"({self._interval} {drop.low * 100:.2f} to {drop.high * 100:.2f}, {drop.n} images){chance}"
            )

    def json_against_first(self, limits: LossLimits) -> Json:
        compared = self.comparison
        return {
            "speed": self.speed,
            "speedup": {"value": compared.ratio, **asdict(compared.interval), "confidence": compared.confidence},
            "top1_drop": asdict(self.drop) if self.drop else None,
            "exceeds": self.exceeded(limits),
        }

    @property
    def _interval(self) -> str:
        return f"{self.comparison.confidence * 100:.3g}% interval"


@dataclass(frozen=True, repr=False)
class ModelComparison:
    """What other models cost and gain against the first.

    The intervals of all speeds hold together with 95% confidence, and so do those of all losses of top-1: the intervals
    of several models are wider (Bonferroni).

    Attributes:
        first: the model that all others are compared with.
        others: in the order given.
        limits: what another model may lose.
    """

    first: ComparedModel
    others: tuple[OtherModel, ...]
    limits: LossLimits = NO_LOSS

    @property
    def other_is_worse(self) -> bool:
        """Whether a model exceeds a limit: slower, or less accurate, by more than chance explains."""
        return any(other.exceeded(self.limits) for other in self.others)

    @property
    def is_met(self) -> bool:
        """Whether no model is shown to be worse, by a valid timing. Replayed times do not count."""
        is_invalid = self.first.latency.label == "measured" and bool(self.invalid)
        return not (self.other_is_worse or is_invalid)

    @property
    def invalid(self) -> tuple[str, ...]:
        """Reasons why the latencies are none of the device in its stated mode, a sentence each."""
        return self.first.latency.invalid

    def as_json(self) -> Json:
        """`others` lists every other model. The fields of an only one stand beside the list, too."""
        others = [{**one.as_json(), **one.json_against_first(self.limits)} for one in self.others]
        told = {"model": self.first.as_json(), "other_is_worse": self.other_is_worse, "others": others}
        if len(self.others) > 1:
            return told
        return {**told, "other": self.others[0].as_json(), **self.others[0].json_against_first(self.limits)}

    def named(self, names: Sequence[str]) -> ModelComparison:
        """The comparison with other names for its models. Equal names are numbered."""
        first, *others = distinct(names)
        renamed = (replace(other, name=name) for other, name in zip(self.others, others, strict=True))
        return replace(self, first=replace(self.first, name=first), others=tuple(renamed))

    def __str__(self) -> str:
        return "\n".join(map(printable_line, self.sentences()))

    def __repr__(self) -> str:
        speeds = "; ".join(other.speed_sentence(self.first.name) for other in self.others)
        return f"<edgevit.ModelComparison {printable_line(speeds)}>"

    def _repr_html_(self) -> str:
        rows = [
            (model.name, *(f"{model.latency.percentile_ms(percent):.3g} ms" for percent in (50, 90, 99)))
            for model in (self.first, *self.others)
        ]
        answers = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in self._answers())
        return html_table(("model", "p50", "p90", "p99"), rows) + answers

    def sentences(self) -> list[str]:
        """The answer in words."""
        return [*(model.sentence() for model in (self.first, *self.others)), *self._answers()]

    def _answers(self) -> Iterator[str]:
        yield from (f"INVALID: {reason}" for reason in self.invalid)
        for other in self.others:
            yield other.speed_sentence(self.first.name)
            yield from other.drop_sentence()
            for name in other.exceeded(self.limits):
                yield f"{other.name} exceeds --{name.replace('_', '-')} {getattr(self.limits, name):g}"
        if len(self.others) > 1:
            yield f"the intervals of {self._compared} hold together with 95% confidence"
        if self.first.latency.label == "replayed":
            yield "a stand-in has replayed these times: they say nothing about the speed of the models"
        yield from (f"doubt: {doubt}" for doubt in self.first.latency.doubts)

    @property
    def _compared(self) -> str:
        return "all speeds" + (", and those of all losses of top-1," if self.others[0].drop else "")


def compare_models(
    stages: SingleStages,
    models: Sequence[Artifact],
    images: Artifact | None,
    threads: int,
    batch_size: int | None,
    duration_s: float,
    target: str = LOCAL_CPU,
    runtimes: Sequence[str] = (),
    limits: LossLimits = NO_LOSS,
) -> ModelComparison:
    """Time models in turns on a target, and evaluate them there on the same images; each against the first.

    Args:
        images: labelled images; None leaves accuracy out.
        batch_size: images at a time; None takes the batch size that a file fixes, or 1.
        duration_s: seconds to measure each model.
        runtimes: what runs ONNX files: one for all models, or one for each; each file's own by default.

    Raises:
        RecipeError: there are fewer than two models, or too many, or not one runtime for each.
        TargetError: a runtime does not open its model, or the target does not run it.
    """
    models = _in_runtimes(models, runtimes)
    fixed = (fixed_batch(model.io) for model in models)
    batch_size = batch_size or next((size for size in fixed if size is not None), 1)
    options, plan = SessionOptions(threads=threads), MeasurePlan(duration_s=duration_s, batch_size=batch_size)
    drops: list[Drop | None] = [None] * (len(models) - 1)
    if images is not None:
        drops = list(_drops(stages, models, images, target))
    timed = target_for(target, stages.context).race(models, options, plan)
    first, *others = zip(distinct([model.id for model in models]), map(runtime_of, models), strict=True)
    return ModelComparison(
        ComparedModel(*first, timed[0].a),
        tuple(
            OtherModel(*other, compared.b, compared, drop)
            for other, compared, drop in zip(others, timed, drops, strict=True)
        ),
        limits,
    )


def distinct(names: Sequence[str]) -> list[str]:
    """The names, with numbers behind those that stand there more than once."""
    return [f"{name} ({number})" if names.count(name) > 1 else name for number, name in enumerate(names, start=1)]


def _in_runtimes(models: Sequence[Artifact], runtimes: Sequence[str]) -> list[Artifact]:
    """The models, each opened by its runtime."""
    if not 2 <= len(models) <= MOST_RACED:
        raise RecipeError("the number of models cannot be compared", got=len(models), expected=f"2 to {MOST_RACED}")
    if unknown := [name for name in runtimes if name not in RUNTIMES]:
        raise RecipeError("there is no such runtime", where="--runtime", got=unknown[0], expected=" or ".join(RUNTIMES))
    if len(runtimes) not in (0, 1, len(models)):
        what = "give one runtime for all models, or one for each"
        raise RecipeError(what, where="--runtime", got=len(runtimes), expected=f"1 or {len(models)}")
    own: list[str | None] = [*runtimes] or [None]
    return [for_runtime(model, name) for model, name in zip(models, own * (len(models) // len(own)), strict=True)]


def _drops(stages: SingleStages, models: Sequence[Artifact], images: Artifact, target: str) -> Iterator[Drop]:
    """The loss of top-1 of each other model against the first."""
    config = stage_config(Evaluate, id="evaluation", model="model", data="images", target=target)
    first, *others = (correct_predictions(stages.make(config, model=model, data=images)) for model in models)
    confidence = confidence_of_each(len(others))
    return (paired_drop(first, other, confidence) for other in others)
