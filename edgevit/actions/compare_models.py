"""Two models against each other: latencies interleaved in one run, accuracies on the same images."""

from __future__ import annotations

import html
from dataclasses import asdict, dataclass

from edgevit.actions.single_stage import SingleStages, stage_config
from edgevit.artifacts import Artifact, Json
from edgevit.configs import Evaluate
from edgevit.configs.targets import LOCAL_CPU
from edgevit.evaluation.paired import Drop, paired_drop
from edgevit.evaluation.record import correct_predictions
from edgevit.profiling import Interval, Measurement, MeasurePlan
from edgevit.report.tables import html_table
from edgevit.runtimes.base import SessionOptions, fixed_batch
from edgevit.targets import target_for
from edgevit.terminal import printable_line


@dataclass(frozen=True, repr=False)
class ModelComparison:
    """What OTHER costs and gains against MODEL.

    Attributes:
        speedup: MODEL's p50 over OTHER's; above 1 where OTHER is faster.
        names: of the two models, in sentences.
        drop: MODEL's top-1 minus OTHER's on the same images, where there were images.
    """

    model: Measurement
    other: Measurement
    speedup: float
    interval: Interval
    drop: Drop | None
    names: tuple[str, str] = ("the first model", "the second model")

    @property
    def other_is_worse(self) -> bool:
        """Slower, or less accurate, by more than chance explains. Replayed and invalid times show no difference."""
        is_slower = self.model.label == "measured" and not self.invalid and self.interval.high < 1
        return is_slower or (self.drop is not None and self.drop.low > 0)

    @property
    def is_met(self) -> bool:
        """Whether the other model is not shown to be worse, by a valid timing. Replayed times do not count."""
        is_invalid = self.model.label == "measured" and bool(self.invalid)
        return not (self.other_is_worse or is_invalid)

    @property
    def invalid(self) -> tuple[str, ...]:
        """Reasons why the latencies are none of the device in its stated mode, a sentence each."""
        return self.model.invalid

    def as_json(self) -> Json:
        return {
            "model": {"latency_ms": self.model.summary()},
            "other": {"latency_ms": self.other.summary()},
            "speedup": {"value": self.speedup, "low": self.interval.low, "high": self.interval.high},
            "top1_drop": asdict(self.drop) if self.drop else None,
            "other_is_worse": self.other_is_worse,
        }

    def __str__(self) -> str:
        return "\n".join(map(printable_line, self.sentences(*self.names)))

    def __repr__(self) -> str:
        return f"<edgevit.ModelComparison {printable_line(self.sentences(*self.names)[2])}>"

    def _repr_html_(self) -> str:
        rows = [
            (name, *(f"{measurement.percentile_ms(percent):.3g} ms" for percent in (50, 90, 99)))
            for name, measurement in zip(self.names, (self.model, self.other), strict=True)
        ]
        answers = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in self.sentences(*self.names)[2:])
        return html_table(("model", "p50", "p90", "p99"), rows) + answers

    def sentences(self, model: str, other: str) -> list[str]:
        """The answer in words."""
        batch = self.model.plan.batch_size
        images = f" for {batch} images" if batch > 1 else ""
        said = [
            f"p50 {self.model.percentile_ms(50):.3g} ms{images}: {model}",
            f"p50 {self.other.percentile_ms(50):.3g} ms{images}: {other}",
            *(f"INVALID: {reason}" for reason in self.invalid),
            f"{other} runs {self.speedup:.2f}× as fast (95% interval "
            f"{self.interval.low:.2f} to {self.interval.high:.2f})",
        ]
        if self.model.label == "replayed":
            said.append("a stand-in has replayed these times: they say nothing about the speed of the two models")
        if self.drop:
            drop = self.drop
            chance = ", which may be chance" if drop.may_be_chance else ""
            said.append(
                f"{other} loses {drop.value * 100:.2f} points of top-1 "
                f"(95% interval {drop.low * 100:.2f} to {drop.high * 100:.2f}, {drop.n} images){chance}"
            )
        return said


def compare_models(
    stages: SingleStages,
    model: Artifact,
    other: Artifact,
    images: Artifact | None,
    threads: int,
    batch_size: int | None,
    duration_s: float,
    target: str = LOCAL_CPU,
) -> ModelComparison:
    """Time two models in turns on a target, and evaluate both there on the same images.

    Args:
        images: labelled images; None leaves accuracy out.
        batch_size: images at a time; None takes the batch size that a file fixes, or 1.
        duration_s: seconds to measure.
    """
    batch_size = batch_size or fixed_batch(model.io) or fixed_batch(other.io) or 1
    options, plan = SessionOptions(threads=threads), MeasurePlan(duration_s=duration_s, batch_size=batch_size)
    drop = None
    if images is not None:
        config = stage_config(Evaluate, id="evaluation", model="model", data="images", target=target)
        evaluations = [stages.make(config, model=artifact, data=images) for artifact in (model, other)]
        drop = paired_drop(*map(correct_predictions, evaluations))
    timed = target_for(target, stages.context).race(model, other, options, plan)
    return ModelComparison(timed.a, timed.b, timed.ratio, timed.interval, drop)
