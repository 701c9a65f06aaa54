"""The terms of a distillation's loss. Each is averaged over the samples that it applies to."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from edgevit.artifacts import Frozen
from edgevit.configs.fields import Fraction, LayerIndex, NonNegative, Positive

Tap = Literal["pooled", "cls"] | LayerIndex


class _Term(Frozen):
    weight: Positive = Field(1.0, description="Factor of this term in the sum.")


class CrossEntropy(_Term):
    """Cross-entropy with the label, for labelled samples. In a distillation-token student it trains the class head."""

    loss: Literal["cross_entropy"] = "cross_entropy"


class _FromTeacher(_Term):
    """Base of terms with the teacher. In a distillation-token student they train the distillation head."""

    samples: Literal["all", "labelled", "unlabelled"] = Field("all", description="Samples that this term applies to.")
    warmup_fraction: Fraction = Field(
        0.0, description="Share of the training over which the weight rises from 0 in proportion to the steps."
    )


class HardDistillation(_FromTeacher):
    """Cross-entropy with the teacher's argmax (DeiT, eq. 3)."""

    loss: Literal["hard"] = "hard"
    label_smoothing: Fraction = Field(0.0, description="Share of the target that is spread evenly over all classes.")


class SoftDistillation(_FromTeacher):
    """τ²·KL(teacher‖student) (Hinton et al. 2015; DeiT, eq. 2)."""

    loss: Literal["soft"] = "soft"
    temperature: Positive = Field(1.0, description="Temperature τ that divides both logits.")
    kl_reduction: Literal["batchmean", "mean"] = Field(
        "batchmean",
        description="Divisor of the divergence: samples (batchmean), or samples × classes (mean) as in DeiT's code.",
    )
    standardize: bool = Field(
        False,
        description="Whether both logits of each sample first get mean 0 and standard deviation 1. Sun et al. 2024 "
        "take temperature 2 and weight 9.",
    )


class DecoupledDistillation(_FromTeacher):
    """DKD: α·(target class against the rest) + β·(among the rest); labelled, unmixed samples (Zhao et al. 2022)."""

    loss: Literal["dkd"] = "dkd"
    samples: Literal["labelled"] = Field("labelled", description="Samples that this term applies to.")
    alpha: NonNegative = Field(1.0, description="Weight α of the target class against the others.")
    beta: NonNegative = Field(8.0, description="Weight β of the classes that are not the target.")
    temperature: Positive = Field(4.0, description="Temperature τ that divides both logits.")
    standardize: bool = Field(
        False,
        description="Whether both logits of each sample first get mean 0 and standard deviation 1 (Sun et al. 2024).",
    )


class FeatureDistillation(_FromTeacher):
    """Distance between the teacher's features and a linear projection of the student's. The projection is not kept."""

    loss: Literal["features"] = "features"
    distance: Literal["cosine", "mse"] = Field(
        "cosine", description="Distance of two features: 1 − cosine, or the mean squared difference."
    )
    student: Tap = Field(
        "pooled",
        description="Features of the student. pooled: the input of the classifier. cls: the class token. A number: an "
        "intermediate layer; -1 is the last.",
    )
    teacher: Tap = Field("pooled", description="Features of the teacher, named as those of the student.")
    standardize: bool = Field(
        False,
        description="Whether each channel of the teacher's features first gets mean 0 and standard deviation 1 over "
        "the images that are computed at once. Accumulation and ranks then change the result a little.",
    )

    @model_validator(mode="after")
    def _vector_with_vector(self) -> FeatureDistillation:
        if isinstance(self.student, int) != isinstance(self.teacher, int):
            raise ValueError("an intermediate layer goes with an intermediate layer, pooled or cls with pooled or cls")
        return self


class AttentionTransfer(_FromTeacher):
    """Distance between spatial attention maps of pairs of layers (Zagoruyko and Komodakis 2017)."""

    loss: Literal["attention_transfer"] = "attention_transfer"
    student: tuple[LayerIndex, ...] = Field(
        (-1,), min_length=1, description="Intermediate layers of the student; -1 is the last."
    )
    teacher: tuple[LayerIndex, ...] = Field(
        (-1,), min_length=1, description="Intermediate layers of the teacher, one for each layer of the student."
    )

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
