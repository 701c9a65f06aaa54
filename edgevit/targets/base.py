"""The protocol of a target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from edgevit.artifacts import Artifact, Json
from edgevit.configs import Compile
from edgevit.errors import TargetError
from edgevit.model_file import ModelFile, TargetInfo
from edgevit.profiling import Comparison, MeasurePlan
from edgevit.profiling.measure import Label
from edgevit.runtimes.base import Session, SessionOptions

CHOICE = MeasurePlan(warmup_s=0.2, duration_s=1.0, min_runs=20)  # settings of a race that chooses between models
RACES = 3  # of the same models, as long as they are invalid

Check = Callable[[ModelFile], Json]


def unchecked(file: ModelFile) -> Json:
    """A check that accepts every result."""
    return {}


@dataclass(frozen=True)
class Compiled:
    """A compiled model in its folder.

    Attributes:
        file: its record.
        checked: what the check of the model gave.
        build: facts of the build, which are not part of the model's content.
    """

    file: ModelFile
    checked: Json
    build: Json = field(default_factory=dict)


class Target(Protocol):
    """A device that runs models."""

    def describe(self, runtime: str) -> TargetInfo:
        """The target's fingerprint for one runtime. Raises TargetError if the runtime does not run on the target."""

    def compile(self, model: Artifact, out: Path, config: Compile, check: Check = unchecked) -> Compiled:
        """Compile an ONNX file for the runtime of the config, into folder `out`.

        Args:
            check: is called with each result in the folder that may be kept, and raises CheckFailed if it is wrong. The
                target stays connected meanwhile.
        """

    def open(self, model: Artifact, options: SessionOptions) -> AbstractContextManager[Session]:
        """Load a model. The artifact's kind and manifest name the runtime; its manifest holds more session options."""

    def race(self, models: Sequence[Artifact], options: SessionOptions, plan: MeasurePlan) -> tuple[Comparison, ...]:
        """Measure models in turns on the target, each loaded anew at every start; compare the first with each other."""


def compare_speed(target: Target, a: Artifact, b: Artifact, threads: int, batch_size: int = 1) -> Comparison:
    """The latency of model `a` over that of `b` on a target, measured in turns on inputs of the same shape.

    The ratio serves to choose between models. It is no latency to quote. An invalid one is measured again.

    Raises:
        TargetError: it stayed invalid.
    """
    (compared,) = valid_race(target, (a, b), SessionOptions(threads=threads), replace(CHOICE, batch_size=batch_size))
    return compared


def valid_race(
    target: Target, models: Sequence[Artifact], options: SessionOptions, plan: MeasurePlan
) -> tuple[Comparison, ...]:
    """The comparison of the first model with each other, by a race that is run again while it is invalid.

    Raises:
        TargetError: it stayed invalid.
    """
    for _ in range(RACES):
        comparisons = target.race(models, options, plan)
        if not comparisons[0].invalid:
            return comparisons
    raise invalid_choice(comparisons[0].invalid)


def invalid_choice(reasons: Sequence[str]) -> TargetError:
    """The error where something was to be chosen by a timing that stayed invalid."""
    return TargetError(
        "the timing is invalid, so no model can be chosen by it",
        got="; ".join(reasons),
        next="let the machine cool, see to its power supply, and run the same command again",
    )


def check_is_measured(label: Label, choice: str, next_step: str) -> None:
    """Raise TargetError if a stand-in for a board has replayed the times by which something is to be chosen.

    Args:
        choice: the option, or the thing that is chosen, for the error.
    """
    if label == "replayed":
        raise TargetError("a stand-in replays the times of the target: they decide nothing", got=choice, next=next_step)
