"""What all stages share, and the budget that some of them read."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field

from edgevit.artifacts import Frozen, Kind
from edgevit.configs.fields import LONGEST_ID, Loss, Positive


class Budget(Frozen):
    """What the deployed model may cost. A limit that is left out is not judged."""

    latency_ms: Positive | None = Field(None, description="largest p50 latency, in ms")
    top1_drop: Loss | None = Field(
        None, description="largest loss of top-1 against the float student; 0.01 is one point"
    )
    size_mib: Positive | None = Field(None, description="largest model file, in MiB")


class Stage(Frozen):
    """What all stages share. `version` changes when a stage would give another result for the same inputs."""

    makes: ClassVar[Kind]
    version: ClassVar[int] = 1
    reads_budget: ClassVar[bool] = False
    reads_names: ClassVar[bool] = False  # of the recipe and of its stages

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
    """What the stages share that run a model where it will run."""

    target: Literal["local-cpu", "local-gpu"] = "local-cpu"
