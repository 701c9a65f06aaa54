"""Fields that all stages share, and the budget."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field

from edgevit.artifacts import Frozen, Kind
from edgevit.configs.fields import LONGEST_ID, Loss, Positive


class Budget(Frozen):
    """Limits of the deployed model. A limit that is left out is not judged."""

    latency_ms: Positive | None = Field(None, description="largest p50 latency, in ms")
    top1_drop: Loss | None = Field(
        None, description="largest loss of top-1 against the float student; 0.01 is one point"
    )
    size_mib: Positive | None = Field(None, description="largest model file, in MiB")


class Stage(Frozen):
    """Base of all stages. `version` changes when a stage would give another result for the same inputs."""

    makes: ClassVar[Kind]
    version: ClassVar[int] = 1
    reads_budget: ClassVar[bool] = False
    reads_names: ClassVar[bool] = False  # of the recipe and of its stages
    reads_test_images: ClassVar[bool] = False

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9][A-Za-z0-9_.-]*)*$")] = Field(
        max_length=LONGEST_ID,
        description="the name by which later stages refer to this one, and its folder in the run",
    )

    @classmethod
    def name(cls) -> str:
        """The name that recipes give as `stage`."""
        literal: str = get_args(cls.model_fields["stage"].annotation)[0]
        return literal


class OnTarget(Stage):
    """Base of the stages that run a model on a target."""

    target: Literal["local-cpu", "local-gpu"] = "local-cpu"
