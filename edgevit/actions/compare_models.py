"""Two models against each other: latencies interleaved in one run, accuracies on the same images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial

from edgevit.artifacts import Artifact, Json
from edgevit.evaluation.record import correct_predictions
from edgevit.profiling import Interval, MeasurePlan, interleaved
from edgevit.profiling.measure import Measurement, Work
from edgevit.report.statistics import Drop, paired_drop
from edgevit.runtimes.base import SessionOptions
from edgevit.targets import target_for


@dataclass(frozen=True)
class ModelComparison:
    """What OTHER costs and gains against MODEL.

    Attributes:
        speedup: MODEL's p50 over OTHER's; above 1 where OTHER is faster.
        drop: MODEL's top-1 minus OTHER's on the same images, where there were images.
    """

    model: Measurement
    other: Measurement
    speedup: float
    interval: Interval
    drop: Drop | None

    @property
    def other_is_worse(self) -> bool:
        """Slower, or less accurate, by more than chance explains."""
        return self.interval.high < 1 or (self.drop is not None and self.drop.low > 0)

    def as_json(self) -> Json:
        return {
            "model": {"latency_ms": self.model.summary()},
            "other": {"latency_ms": self.other.summary()},
            "speedup": {"value": self.speedup, "low": self.interval.low, "high": self.interval.high},
            "top1_drop": asdict(self.drop) if self.drop else None,
            "other_is_worse": self.other_is_worse,
        }

    def sentences(self, model: str, other: str) -> list[str]:
        """The answer in words."""
        batch = self.model.plan.batch_size
        images = f" for {batch} images" if batch > 1 else ""
        said = [
            f"p50 {self.model.percentile_ms(50):.3g} ms{images}: {model}",
            f"p50 {self.other.percentile_ms(50):.3g} ms{images}: {other}",
            f"{other} runs {self.speedup:.2f}× as fast (95% interval "
            f"{self.interval.low:.2f} to {self.interval.high:.2f})",
        ]
        if self.drop:
            drop = self.drop
            chance = ", which may be chance" if drop.may_be_chance else ""
            said.append(
                f"{other} loses {drop.value * 100:.2f} points of top-1 "
                f"(95% interval {drop.low * 100:.2f} to {drop.high * 100:.2f}, {drop.n} images){chance}"
            )
        return said


def compare_models(
    model: Artifact,
    other: Artifact,
    evaluations: tuple[Artifact, Artifact] | None,
    options: SessionOptions,
    plan: MeasurePlan,
) -> ModelComparison:
    """Time two models in turns on this machine's CPU; hold their evaluations on the same images together."""
    timed = interleaved(partial(_run_of, model, options, plan), partial(_run_of, other, options, plan), plan)
    drop = paired_drop(*(correct_predictions(one) for one in evaluations)) if evaluations else None
    return ModelComparison(timed.a, timed.b, timed.ratio, timed.interval, drop)


@contextmanager
def _run_of(model: Artifact, options: SessionOptions, plan: MeasurePlan) -> Iterator[Work]:
    """One run of a model, loaded anew."""
    with target_for("local-cpu").open(model, options) as session:
        yield session.work(plan)
