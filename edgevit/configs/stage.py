"""What all stages share, and the budget that some of them read."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field

from edgevit.artifacts import Frozen, Kind
from edgevit.configs.fields import LONGEST_ID, Loss, Positive


class Budget(Frozen):
    """What the deployed model may cost. A limit that is left out is not judged."""

    latency_ms: Positive | None = Field(None, description="Largest p50 latency in milliseconds.")
    top1_drop: Loss | None = Field(
        None, description="Largest loss of top-1 accuracy against the float student, as a fraction; 0.01 is one point."
    )
    size_mib: Positive | None = Field(None, description="Largest size of the model file in MiB.")


class Stage(Frozen):
    """What all stages share. `version` changes when a stage would give another result for the same inputs."""

    makes: ClassVar[Kind]
    version: ClassVar[int] = 1
    reads_budget: ClassVar[bool] = False
    reads_names: ClassVar[bool] = False  # of the recipe and of its stages

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9][A-Za-z0-9_.-]*)*$")] = Field(
        max_length=LONGEST_ID,
        description="Name of the stage. Later stages refer to it, and its folder in the run has this name.",
    )

    @classmethod
    def name(cls) -> str:
        """The name that recipes give as `stage`."""
        literal: str = get_args(cls.model_fields["stage"].annotation)[0]
        return literal


class OnTarget(Stage):
    """What the stages share that run a model where it will run."""

    target: Literal["local-cpu", "local-gpu"] = Field(
        "local-cpu", description="Device that runs the model: the CPU or the CUDA GPU of this machine."
    )
