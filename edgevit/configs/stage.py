"""Fields that all stages share, and the budget."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, ClassVar, get_args

from pydantic import Field

from edgevit.artifacts import Frozen, Kind
from edgevit.configs.fields import LONGEST_ID, Fraction, Loss, Positive
from edgevit.configs.targets import LOCAL_CPU, TargetName

TARGET = (
    "Device that runs the model: `local-cpu` and `local-gpu` are this machine's CPU and CUDA GPU; other names stand in "
    "targets.yaml (`edgevit devices add`)."
)


class Budget(Frozen):
    """Limits of the deployed model. A limit that is left out is not judged.

    The measured value decides. If a limit lies inside the 95% interval of the value, the report says so. No limit on
    accuracy is met by a model that is not better than always answering the commonest class.
    """

    latency_ms: Positive | None = Field(None, description="Largest p50 latency in milliseconds.")
    energy_mj: Positive | None = Field(
        None, description="Largest energy for an image in millijoules, above that of the machine at rest."
    )
    top1_drop: Loss | None = Field(
        None, description="Largest loss of top-1 accuracy against the float student, as a fraction; 0.01 is one point."
    )
    size_mib: Positive | None = Field(None, description="Largest size of the model file in MiB.")
    top1: Fraction | None = Field(None, description="Least top-1 accuracy on the test images, 0 to 1.")
    balanced_accuracy: Fraction | None = Field(
        None, description="Least balanced accuracy on the test images, 0 to 1: the mean recall of all classes."
    )
    recall: Fraction | None = Field(
        None, description="Least recall of every class on the test images, 0 to 1. The class with the lowest decides."
    )


class Stage(Frozen):
    """Base of all stages. `version` changes when a stage would give another result for the same inputs."""

    makes: ClassVar[Kind | None]  # None: as its inputs, see `kind`
    version: ClassVar[int] = 1
    reads_budget: ClassVar[bool] = False
    reads_names: ClassVar[bool] = False  # of the recipe and of its stages
    reads_test_images: ClassVar[bool] = False

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9][A-Za-z0-9_.-]*)*$")] = Field(
        max_length=LONGEST_ID,
        description="Name of the stage. Later stages refer to it, and its folder in the run has this name.",
    )

    def runs_on(self) -> tuple[str, ...]:
        """The targets whose fingerprints decide the result; none if the result is the same everywhere."""
        return ()

    def kind(self, kinds: Mapping[str, Kind]) -> Kind:
        """The kind of the stage's result.

        Args:
            kinds: those of earlier results, by id.
        """
        assert self.makes is not None
        return self.makes

    def runtime_on(self, target: str) -> str | None:
        """The runtime on a target of `runs_on`; None if the stage names none: the stage's model then decides."""
        return None

    @classmethod
    def name(cls) -> str:
        """The name that recipes give as `stage`."""
        literal: str = get_args(cls.model_fields["stage"].annotation)[0]
        return literal


def kinds_of(stages: Iterable[Stage]) -> dict[str, Kind]:
    """The kind of each stage's result, by id."""
    kinds: dict[str, Kind] = {}
    for stage in stages:
        kinds[stage.id] = stage.kind(kinds)
    return kinds


class OnTarget(Stage):
    """Base of the stages that run a model on a target."""

    target: TargetName = Field(LOCAL_CPU, description=TARGET)

    def runs_on(self) -> tuple[str, ...]:
        return (self.target,)
