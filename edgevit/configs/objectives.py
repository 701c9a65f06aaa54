"""The terms that a distillation's loss may be made of."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edgevit.artifacts import Frozen
from edgevit.configs.fields import Positive


class Objective(Frozen):
    """One term of the loss, averaged over the samples it applies to.

    cross_entropy: CE with the label (labelled samples). hard: CE with the teacher's argmax (DeiT, eq. 3).
    soft: τ²·KL(teacher‖student) (Hinton et al. 2015; DeiT, eq. 2). A student with a distillation token learns
    cross_entropy with its class head and the teacher's terms with its distillation head; one without it learns both
    with its one head.
    """

    loss: Literal["cross_entropy", "hard", "soft"]
    weight: Positive = 1.0
    temperature: Positive = Field(1.0, description="τ, of soft")
    kl_reduction: Literal["batchmean", "mean"] = Field(
        "batchmean", description="batchmean divides by samples; mean by samples × classes, as DeiT's code does"
    )
