"""The methods of the stage `pretrain`, each with its options, its views and its random changes."""

from __future__ import annotations

from math import factorial
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from edgevit.artifacts import Frozen
from edgevit.configs.fields import (
    CosineTemperature,
    Count,
    DecoderWidth,
    Fraction,
    Hue,
    MaskedShare,
    Momentum,
    PuzzleGrid,
)
from edgevit.configs.training import Augmentation, ViewSpec

MOST_PERMUTATIONS = 1_000


class PretrainAugmentation(Augmentation):
    """Random changes of the views. Those of SimCLR come on top of those that all training has."""

    hue: Hue = Field(0.0, description="Largest change of the hue, as a share of the color circle.")
    jitter_probability: Fraction = Field(1.0, description="Probability that color_jitter and hue are applied.")
    grayscale: Fraction = Field(0.0, description="Probability that a view loses its color.")
    blur: Fraction = Field(0.0, description="Probability that a view is blurred.")


COLORS = {"color_jitter": 0.4, "hue": 0.1, "jitter_probability": 0.8, "grayscale": 0.2, "blur": 0.5}


class PretrainMethod(Frozen):
    """Base of the methods.

    Attributes:
        views, augmentation: the views and the random changes that suit the method.
        compares_images: whether the loss compares the images of a batch.
        has_moving_teacher: whether a moving average of the weights teaches.
    """

    compares_images: ClassVar[bool] = True
    has_moving_teacher: ClassVar[bool] = False
    views: ClassVar[tuple[ViewSpec, ...]] = (ViewSpec(count=2, scale=(0.2, 1.0)),)
    augmentation: ClassVar[PretrainAugmentation] = PretrainAugmentation.model_validate(COLORS)


class SelfDistillation(PretrainMethod):
    """Base of DINO and EsViT: the student learns the answers of a moving teacher to other views."""

    has_moving_teacher: ClassVar[bool] = True
    views: ClassVar[tuple[ViewSpec, ...]] = (
        ViewSpec(count=2, scale=(0.4, 1.0)),
        ViewSpec(count=4, scale=(0.05, 0.4)),
    )
    prototypes: Count = Field(4096, description="Number of outputs. The paper takes 65,536 for ImageNet.")
    hidden: Count = Field(512, description="Channels of the head's hidden layers; 2,048 in the paper.")
    bottleneck: Count = Field(256, description="Channels before the prototypes.")
    momentum: Momentum | None = Field(
        None,
        description="Momentum of the teacher at the start; it rises to 1. By default the paper's 0.996; in a training "
        "of fewer than 2,000 steps 1 - 8/steps, but at least 0.9.",
    )
    center_momentum: Fraction = Field(0.9, description="Momentum of the center; 1 turns centering off.")
    student_temperature: CosineTemperature = Field(0.1, description="Temperature of the student's outputs.")
    teacher_temperature: CosineTemperature = Field(
        0.04, description="Temperature of the teacher's outputs, after a rise from at most 0.04."
    )
    fixed_prototypes: Fraction = Field(
        0.02, description="Share of the training at the start in which the prototypes stay as they are."
    )

    @model_validator(mode="after")
    def _teacher_is_sharper(self) -> Self:
        if self.teacher_temperature >= self.student_temperature:
            raise ValueError(
                "teacher_temperature has to be below student_temperature (sharpening), "
                f"got {self.teacher_temperature:g} and {self.student_temperature:g}"
            )
        return self


class Dino(SelfDistillation):
    """DINO: the student learns the answers of a moving teacher to other views (Caron et al. 2021)."""

    type: Literal["dino"] = "dino"


class EsVit(SelfDistillation):
    """EsViT: DINO on whole views, and on their best matching regions (Li et al. 2022)."""

    type: Literal["esvit"] = "esvit"


class SimClr(PretrainMethod):
    """SimCLR: views of one image attract each other, views of others repel (Chen et al. 2020)."""

    type: Literal["simclr"] = "simclr"
    temperature: CosineTemperature = Field(0.2, description="Temperature of the similarities.")
    dimensions: Count = Field(128, description="Channels of the projector's output.")


class Mae(PretrainMethod):
    """MAE: a plain ViT completes the pixels of masked patches (He et al. 2022)."""

    compares_images: ClassVar[bool] = False
    type: Literal["mae"] = "mae"
    views: ClassVar[tuple[ViewSpec, ...]] = (ViewSpec(count=1, scale=(0.2, 1.0)),)
    augmentation: ClassVar[PretrainAugmentation] = PretrainAugmentation()
    masked: MaskedShare = Field(0.75, description="Share of the patches that is masked.")
    decoder_width: DecoderWidth = Field(128, description="Channels of the decoder; 512 in the paper.")
    decoder_depth: Count = Field(2, description="Blocks of the decoder; 8 in the paper.")


class Byol(PretrainMethod):
    """BYOL: a predictor and a moving teacher, without negatives (Grill et al. 2020)."""

    has_moving_teacher: ClassVar[bool] = True
    type: Literal["byol"] = "byol"
    momentum: Momentum | None = Field(
        None,
        description="Momentum of the teacher at the start; it rises to 1. By default the paper's 0.996; in a training "
        "of fewer than 2,000 steps 1 - 8/steps, but at least 0.9.",
    )
    hidden: Count = Field(
        1024, description="Channels of the hidden layers of projector and predictor; 4,096 in the paper."
    )
    dimensions: Count = Field(256, description="Channels of the projector's output.")


class Moco(PretrainMethod):
    """MoCo: negatives from a queue of earlier batches (He et al. 2020, with the projector of v2)."""

    has_moving_teacher: ClassVar[bool] = True
    type: Literal["moco"] = "moco"
    momentum: Momentum | None = Field(
        None,
        description="Momentum of the teacher. By default the paper's 0.999; in a training of fewer than 4,000 steps "
        "1 - 4/steps, but at least 0.9.",
    )
    queue: Count = Field(4096, description="Number of earlier keys; 65,536 in the paper.")
    temperature: CosineTemperature = Field(0.2, description="Temperature of the similarities.")
    dimensions: Count = Field(128, description="Channels of the projector's output.")


class Pirl(PretrainMethod):
    """PIRL: an image and its jigsaw puzzle find the memory of the image (Misra and van der Maaten 2020)."""

    type: Literal["pirl"] = "pirl"
    grid: PuzzleGrid = Field(3, description="Rows and columns of tiles.")
    negatives: Count = Field(4096, description="Number of memories of other images; 32,000 in the paper.")
    temperature: CosineTemperature = Field(0.07, description="Temperature of the similarities.")
    memory_momentum: Momentum = Field(0.5, description="Momentum of the memories.")
    puzzle_share: Fraction = Field(0.5, description="Weight λ of the puzzle in the loss; the image has the rest.")
    dimensions: Count = Field(128, description="Channels of the outputs.")


class Fcmae(PretrainMethod):
    """FCMAE: a convolutional or hybrid model completes the pixels of masked patches (Woo et al. 2023)."""

    compares_images: ClassVar[bool] = False
    type: Literal["fcmae"] = "fcmae"
    views: ClassVar[tuple[ViewSpec, ...]] = Mae.views
    augmentation: ClassVar[PretrainAugmentation] = Mae.augmentation
    masked: MaskedShare = Field(0.6, description="Share of the patches that is masked.")
    decoder_width: DecoderWidth = Field(128, description="Channels of the decoder; 512 in the paper.")
    decoder_depth: Count = Field(1, description="Blocks of the decoder.")


class Sit(PretrainMethod):
    """SiT: a plain ViT completes corrupted patches, tells rotations and tells images apart (Atito et al. 2021)."""

    type: Literal["sit"] = "sit"
    corrupted: MaskedShare = Field(0.5, description="Share of the patches that is replaced.")
    temperature: CosineTemperature = Field(0.5, description="Temperature of the similarities.")
    dimensions: Count = Field(128, description="Channels of the projector's output.")


class Rotation(PretrainMethod):
    """Rotation: a classifier tells the rotation of an image, a simple baseline (Gidaris et al. 2018)."""

    compares_images: ClassVar[bool] = False
    type: Literal["rotation"] = "rotation"
    views: ClassVar[tuple[ViewSpec, ...]] = Mae.views
    augmentation: ClassVar[PretrainAugmentation] = Mae.augmentation


class Jigsaw(PretrainMethod):
    """Jigsaw: a classifier tells the order of an image's tiles, a simple baseline (Noroozi and Favaro 2016)."""

    compares_images: ClassVar[bool] = False
    type: Literal["jigsaw"] = "jigsaw"
    views: ClassVar[tuple[ViewSpec, ...]] = Mae.views
    augmentation: ClassVar[PretrainAugmentation] = Mae.augmentation
    grid: PuzzleGrid = Field(3, description="Rows and columns of tiles.")
    permutations: Count = Field(100, description="Number of orders that are told apart; 1,000 in the paper.")
    hidden: Count = Field(128, description="Channels of a tile in the head.")

    @model_validator(mode="after")
    def _orders_exist(self) -> Self:
        orders = factorial(self.grid**2)
        if not 2 <= self.permutations <= min(orders, MOST_PERMUTATIONS):
            raise ValueError(
                f"permutations should be from 2 to {min(orders, MOST_PERMUTATIONS)} for {self.grid} × {self.grid} "
                f"tiles, got {self.permutations}"
            )
        return self


class Auto(PretrainMethod):
    """The method that suits the backbone, the images, the batch and the device. It is named before the training."""

    type: Literal["auto"] = "auto"


METHODS: tuple[type[PretrainMethod], ...] = (
    Dino, EsVit, SimClr, Moco, Pirl, Byol, Mae, Fcmae, Sit, Rotation, Jigsaw, Auto
)  # fmt: skip
