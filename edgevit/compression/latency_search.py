"""The share of a model's cost that meets a latency, by measurement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from edgevit.artifacts import Artifact, Json
from edgevit.compression.trial_files import FloatPrecision, onnx_from_model
from edgevit.errors import RecipeError
from edgevit.models.creation import BuiltModel
from edgevit.profiling import Interval
from edgevit.progress import Progress
from edgevit.targets import Target, check_is_measured, compare_speed

STEPS = 6
MEASURE_INSTEAD = "set a target that measures, or set keep_macs or keep_params in place of keep_latency"


@dataclass(frozen=True)
class LatencyTrial:
    """The latency of a smaller model, timed in turns with the whole model.

    Attributes:
        keep: the share of the whole model's cost that may stay.
        latency: p50 over the whole model's p50.
        interval: 95%, of `latency`.
    """

    keep: float
    latency: float
    interval: Interval

    def sentence(self) -> str:
        """The result as a sentence."""
        low, high = self.interval.low, self.interval.high
        return f"keep {self.keep:.3f}: {self.latency:.1%} of the latency ({low:.1%} to {high:.1%})"

    def as_json(self) -> Json:
        """The record of the trial in the stage's metrics."""
        return {"keep": self.keep, "latency": self.latency, **vars(self.interval)}


def as_exported(name: str, file: Artifact) -> Artifact:
    """The ONNX file itself runs on the target."""
    return file


@dataclass(frozen=True)
class LatencySearch:
    """A search for the share of a model's cost that meets a latency, by measurement.

    Attributes:
        where: the id of the stage, for errors.
        target: where each smaller model is timed in turns with the whole model.
        threads: of the runtime.
        precision: of the models.
        deployed: gives what runs on the target from the name of a model and its ONNX file: the file, or an engine.
    """

    where: str
    target: Target
    threads: int
    progress: Progress
    precision: FloatPrecision = "float32"
    deployed: Callable[[str, Artifact], Artifact] = as_exported

    def share(
        self, whole: BuiltModel, cut: Callable[[float], BuiltModel], least: float, latency: float
    ) -> tuple[float, list[LatencyTrial]]:
        """The largest share of a model's cost that takes no more than the share `latency` of the whole model's latency.

        The share is bisected, to a 64th of the interval between `least` and 1.

        Args:
            cut: makes the model with at most this share of the cost.
            least: the smallest share that can stay.

        Returns:
            The share, and all trials in their order.

        Raises:
            RecipeError: the smallest share takes longer.
            TargetError: a stand-in replays the times of the target.
            ModelRefused, CheckFailed: the engine of a model cannot be built, or is wrong.
        """
        trials: list[LatencyTrial] = []
        with TemporaryDirectory() as folder:
            reference = self._deployed(whole, "whole", Path(folder) / "whole.onnx")

            def is_fast(keep: float) -> bool:
                name = f"trial {len(trials) + 1}, keep {keep:.3f}"
                smaller = self._deployed(cut(keep), name, Path(folder) / "smaller.onnx")
                timed = compare_speed(self.target, smaller, reference, self.threads)
                check_is_measured(timed.a.label, f"keep_latency: {latency:g}", MEASURE_INSTEAD)
                trials.append(LatencyTrial(keep, timed.ratio, timed.interval))
                self.progress.say(f"    {trials[-1].sentence()}")
                return timed.ratio <= latency

            if not is_fast(least):
                raise _too_slow(latency, trials[-1])
            return largest_share(is_fast, least), trials

    def _deployed(self, built: BuiltModel, name: str, file: Path) -> Artifact:
        return self.deployed(name, onnx_from_model(built, file, self.precision, self.where, self.progress))


def largest_share(is_fast: Callable[[float], bool], least: float) -> float:
    """The largest fast share between `least`, which is fast, and 1, found to within a 64th of the interval."""
    too_much = 1.0
    for _ in range(STEPS):
        middle = (least + too_much) / 2
        least, too_much = (middle, too_much) if is_fast(middle) else (least, middle)
    return least


def _too_slow(latency: float, fastest: LatencyTrial) -> RecipeError:
    return RecipeError(
        "pruning cannot make the model so fast",
        got=f"keep_latency: {latency:g}",
        expected=f"at least {fastest.latency:.3f} ({fastest.interval.low:.3f} to {fastest.interval.high:.3f}), as "
        "measured with everything removed that may be removed",
        next="allow more to be removed (structures: [heads, hidden, blocks]), or start from a smaller model",
    )
