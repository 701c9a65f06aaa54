"""How much of a model may stay for it to be fast enough: measured, not counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from edgevit.artifacts import IOSpec, Json
from edgevit.configs import OPSET
from edgevit.errors import RecipeError
from edgevit.exporting.onnx import onnx_from_module
from edgevit.models.creation import BuiltModel
from edgevit.models.folding import Folded
from edgevit.models.timm_models import default_class_names
from edgevit.profiling import Interval
from edgevit.progress import Progress
from edgevit.runtimes.base import HostSession
from edgevit.runtimes.sessions import compare_speed, file_session

STEPS = 6


@dataclass(frozen=True)
class TimedCut:
    """What is left of a model, timed in turns with the whole one.

    Attributes:
        keep: the share of its cost that may stay.
        latency: p50 over that of the whole model.
        interval: 95%, of it.
    """

    keep: float
    latency: float
    interval: Interval

    def sentence(self) -> str:
        """What was found, for people."""
        low, high = self.interval.low, self.interval.high
        return f"keep {self.keep:.3f}: {self.latency:.1%} of the latency ({low:.1%} to {high:.1%})"

    def as_json(self) -> Json:
        return {"keep": self.keep, "latency": self.latency, **vars(self.interval)}


def fast_enough(
    whole: BuiltModel,
    cut: Callable[[float], BuiltModel],
    least: float,
    latency: float,
    threads: int,
    progress: Progress,
) -> tuple[float, list[TimedCut]]:
    """The largest share of a model's cost with which it takes no more than this share of the whole model's latency.

    Both as they are exported, in ONNX Runtime on this machine; found by bisection, to a 64th of what may go.

    Args:
        cut: the model with at most this share of its cost.
        least: the smallest share that can stay.
        threads: of the runtime.

    Returns:
        That share, and all that was timed, in its order.

    Raises:
        RecipeError: with the smallest share it takes longer.
    """
    found: list[TimedCut] = []
    with TemporaryDirectory() as folder:
        load_whole = _loader(whole, Path(folder) / "whole.onnx", threads)

        def is_fast(keep: float) -> bool:
            timed = compare_speed(_loader(cut(keep), Path(folder) / "cut.onnx", threads), load_whole)
            found.append(TimedCut(keep, timed.ratio, timed.interval))
            progress.say(f"    {found[-1].sentence()}")
            return timed.ratio <= latency

        if not is_fast(least):
            raise _too_slow(latency, found[-1])
        return largest_share(is_fast, least), found


def largest_share(is_fast: Callable[[float], bool], least: float) -> float:
    """The largest share between `least`, which is fast, and 1 that is: below it by a 64th of the interval at most."""
    too_much = 1.0
    for _ in range(STEPS):
        middle = (least + too_much) / 2
        least, too_much = (middle, too_much) if is_fast(middle) else (least, middle)
    return least


def _loader(built: BuiltModel, file: Path, threads: int) -> Callable[[], HostSession]:
    """What loads a model, exported to `file`, in ONNX Runtime."""
    spec = IOSpec.for_classifier(built.preprocess, default_class_names(built.description.num_classes))
    folded = built.description.change(Folded) is not None
    exported = onnx_from_module(built.module, spec, OPSET, dynamic_batch=True, as_it_is=folded)
    exported.write(file)
    return partial(file_session, file, exported.spec, {}, threads)


def _too_slow(latency: float, reached: TimedCut) -> RecipeError:
    return RecipeError(
        "pruning cannot make the model so fast",
        got=f"keep_latency: {latency:g}",
        expected=f"at least {reached.latency:.3f} ({reached.interval.low:.3f} to {reached.interval.high:.3f}), as was "
        "measured where the least is left of everything that may go",
        next="let more go (structures: [heads, hidden, blocks]), or start from a smaller model",
    )
