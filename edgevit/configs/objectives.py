"""The terms of a distillation's loss. Each is averaged over the samples that it applies to."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from edgevit.artifacts import Frozen
from edgevit.configs.fields import Fraction, LayerIndex, NonNegative, Positive

Tap = Literal["pooled", "cls"] | LayerIndex


class _Term(Frozen):
    weight: Positive = 1.0


class CrossEntropy(_Term):
    """Cross-entropy with the label, for labelled samples. In a distillation-token student it trains the class head."""

    loss: Literal["cross_entropy"] = "cross_entropy"


class _FromTeacher(_Term):
    """Base of terms with the teacher. In a distillation-token student they train the distillation head."""

    samples: Literal["all", "labelled", "unlabelled"] = Field(
        "all", description="the samples that this term applies to"
    )
    warmup_fraction: Fraction = Field(
        0.0, description="share of the training over which the weight rises linearly from 0"
    )


class HardDistillation(_FromTeacher):
    """Cross-entropy with the teacher's argmax (DeiT, eq. 3)."""

    loss: Literal["hard"] = "hard"
    label_smoothing: Fraction = 0.0


class SoftDistillation(_FromTeacher):
    """τ²·KL(teacher‖student) (Hinton et al. 2015; DeiT, eq. 2)."""

    loss: Literal["soft"] = "soft"
    temperature: Positive = Field(1.0, description="τ")
    kl_reduction: Literal["batchmean", "mean"] = Field(
        "batchmean", description="batchmean divides by samples; mean by samples × classes, as in DeiT's code"
    )
    standardize: bool = Field(
        False,
        description="z-score both logits of each sample first (Sun et al. 2024: temperature 2, weight 9)",
    )


class DecoupledDistillation(_FromTeacher):
    """DKD: α·(target class against the rest) + β·(among the rest); labelled, unmixed samples (Zhao et al. 2022)."""

    loss: Literal["dkd"] = "dkd"
    samples: Literal["labelled"] = "labelled"
    alpha: NonNegative = 1.0
    beta: NonNegative = 8.0
    temperature: Positive = 4.0
    standardize: bool = Field(False, description="z-score both logits of each sample first (Sun et al. 2024)")


class FeatureDistillation(_FromTeacher):
    """Distance between the teacher's features and a linear projection of the student's. The projection is not kept."""

    loss: Literal["features"] = "features"
    distance: Literal["cosine", "mse"] = "cosine"
    student: Tap = Field(
        "pooled",
        description="pooled: the input of the classifier; cls: the class token; a number: an intermediate layer",
    )
    teacher: Tap = "pooled"
    standardize: bool = Field(
        False,
        description="z-score each channel of the teacher's features first, over the images computed at once; "
        "accumulation and ranks change the result a little",
    )

    @model_validator(mode="after")
    def _vector_with_vector(self) -> FeatureDistillation:
        if isinstance(self.student, int) != isinstance(self.teacher, int):
            raise ValueError("an intermediate layer goes with an intermediate layer, pooled or cls with pooled or cls")
        return self


class AttentionTransfer(_FromTeacher):
    """Distance between spatial attention maps of pairs of layers (Zagoruyko and Komodakis 2017)."""

    loss: Literal["attention_transfer"] = "attention_transfer"
    student: tuple[LayerIndex, ...] = Field((-1,), min_length=1, description="intermediate layers; -1 is the last")
    teacher: tuple[LayerIndex, ...] = Field((-1,), min_length=1, description="as many layers of the teacher")

    @model_validator(mode="after")
    def _pairs(self) -> AttentionTransfer:
        if len(self.student) != len(self.teacher):
            raise ValueError(f"layers go in pairs, got {len(self.student)} and {len(self.teacher)}")
        return self


TeacherTerm = HardDistillation | SoftDistillation | DecoupledDistillation | FeatureDistillation | AttentionTransfer
Objective = Annotated[CrossEntropy | TeacherTerm, Field(discriminator="loss")]

OBJECTIVES: dict[str, type[Frozen]] = {
    "cross_entropy": CrossEntropy,
    "hard": HardDistillation,
    "soft": SoftDistillation,
    "dkd": DecoupledDistillation,
    "features": FeatureDistillation,
    "attention_transfer": AttentionTransfer,
}
