"""The stage `pretrain`: self-supervised training on images without labels."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from edgevit.artifacts import Frozen
from edgevit.configs.fields import (
    CheckpointRef,
    CosineTemperature,
    Count,
    DecoderWidth,
    Fraction,
    Hue,
    LearnedFrom,
    MaskedShare,
    ModelArgs,
    Momentum,
    Side,
)
from edgevit.configs.training import Augmentation, Training, ViewSpec, check_start


class PretrainAugmentation(Augmentation):
    """Random changes of the views. Those of SimCLR come on top of those that all training has."""

    hue: Hue = Field(0.0, description="Largest change of the hue, as a share of the color circle.")
    jitter_probability: Fraction = Field(1.0, description="Probability that color_jitter and hue are applied.")
    grayscale: Fraction = Field(0.0, description="Probability that a view loses its color.")
    blur: Fraction = Field(0.0, description="Probability that a view is blurred.")


COLORS = {"color_jitter": 0.4, "hue": 0.1, "jitter_probability": 0.8, "grayscale": 0.2, "blur": 0.5}


class _Method(Frozen):
    """Base of the methods, with the views and random changes that suit them."""

    views: ClassVar[tuple[ViewSpec, ...]] = (ViewSpec(count=2, scale=(0.2, 1.0)),)
    augmentation: ClassVar[PretrainAugmentation] = PretrainAugmentation.model_validate(COLORS)


class Dino(_Method):
    """DINO: the student learns the answers of a moving teacher to other views (Caron et al. 2021)."""

    type: Literal["dino"] = "dino"
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


class SimClr(_Method):
    """SimCLR: views of one image attract each other, views of others repel (Chen et al. 2020)."""

    type: Literal["simclr"] = "simclr"
    temperature: CosineTemperature = Field(0.2, description="Temperature of the similarities.")
    dimensions: Count = Field(128, description="Channels of the projector's output.")


class Mae(_Method):
    """MAE: a plain ViT completes the pixels of masked patches (He et al. 2022)."""

    type: Literal["mae"] = "mae"
    views: ClassVar[tuple[ViewSpec, ...]] = (ViewSpec(count=1, scale=(0.2, 1.0)),)
    augmentation: ClassVar[PretrainAugmentation] = PretrainAugmentation()
    masked: MaskedShare = Field(0.75, description="Share of the patches that is masked.")
    decoder_width: DecoderWidth = Field(128, description="Channels of the decoder; 512 in the paper.")
    decoder_depth: Count = Field(2, description="Blocks of the decoder; 8 in the paper.")


class Byol(_Method):
    """BYOL: a predictor and a moving teacher, without negatives (Grill et al. 2020)."""

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


class Moco(_Method):
    """MoCo: negatives from a queue of earlier batches (He et al. 2020, with the projector of v2)."""

    type: Literal["moco"] = "moco"
    momentum: Momentum | None = Field(
        None,
        description="Momentum of the teacher. By default the paper's 0.999; in a training of fewer than 4,000 steps "
        "1 - 4/steps, but at least 0.9.",
    )
    queue: Count = Field(4096, description="Number of earlier keys; 65,536 in the paper.")
    temperature: CosineTemperature = Field(0.2, description="Temperature of the similarities.")
    dimensions: Count = Field(128, description="Channels of the projector's output.")


METHODS: dict[str, type[_Method]] = {"dino": Dino, "simclr": SimClr, "mae": Mae, "byol": Byol, "moco": Moco}
MethodName = Literal["dino", "simclr", "mae", "byol", "moco"]


def _over_defaults(given: Any, method: type[_Method]) -> Any:
    """The augmentation of a recipe, with the method's value of each key that is not given."""
    if isinstance(given, str):
        given = {"preset": given}
    return {**method.augmentation.model_dump(exclude_unset=True), **given} if isinstance(given, dict) else given


def _typed(given: Any) -> Any:
    return {"type": given} if isinstance(given, str) else given


Method = Annotated[
    Annotated[Dino | SimClr | Mae | Byol | Moco, Field(discriminator="type")],
    BeforeValidator(_typed, json_schema_input_type=MethodName | Dino | SimClr | Mae | Byol | Moco),
]


class Pretrain(Training):
    """Train a backbone on images without labels. Its classifier is not trained.

    The result is for `fewshot`, `train` and `distill`. Labels that the images have are not used.
    """

    version: ClassVar[int] = 3

    stage: Literal["pretrain"]
    model: str | None = Field(None, description="Model by its timm name. Give `model` or `init`.")
    model_args: ModelArgs = Field({}, description="Arguments of timm's `create_model`.")
    init: CheckpointRef | None = Field(None, description="Checkpoint to start from. It keeps its classes.")
    image_size: Side | None = Field(None, description="Side of the input in pixels. By default, the model's own.")
    data: LearnedFrom = Field(description="Images to learn from. Labels are not used.")
    method: Method = Field(
        Dino(),
        description="Method by its name: dino, simclr, mae, byol or moco; or a block with its `type` and options.",
    )
    views: tuple[ViewSpec, ...] = Field(
        Dino.views,
        min_length=1,
        description="Views of each image in a batch. By default those of the method. DINO's teacher sees the views of "
        "the first entry; smaller views of the others take less time.",
    )
    augmentation: PretrainAugmentation = Field(
        Dino.augmentation,
        description="Random changes of the views. A key that is not given has the value of the method; 0 is off.",
    )

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_method(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        method = fields.get("method", "dino")
        name = method.get("type") if isinstance(method, dict) else getattr(method, "type", method)
        chosen = METHODS.get(name) if isinstance(name, str) else None
        if chosen is None:
            return fields
        return {"views": chosen.views, **fields, "augmentation": _over_defaults(fields.get("augmentation", {}), chosen)}

    @model_validator(mode="after")
    def _checks(self) -> Self:
        check_start(self)
        self._check_views()
        if self.augmentation.mixes or self.augmentation.repeats > 1:
            raise ValueError("views of a pretrain stage are not mixed or repeated: leave out mixup, cutmix and repeats")
        if self.augmentation.scale != Augmentation().scale:
            raise ValueError("each view has its own scale: give views: [{count: …, scale: …}] in place of scale")
        if self.freeze == "backbone":
            raise ValueError("pretrain trains the backbone: freeze a number of layers, or leave freeze out")
        if self.compile:
            raise ValueError("pretrain does not use torch.compile: leave compile out")
        if isinstance(self.method, Mae) and self.method.decoder_width % 32:
            raise ValueError(f"decoder_width is a multiple of 32, got {self.method.decoder_width}")
        if self.accumulation > 1 and self.method.type != "mae":
            raise ValueError(f"{self.method.type} compares the images of a batch: leave accumulation out")
        if self.ema_decay is not None and self.method.type in ("dino", "byol", "moco"):
            raise ValueError(f"the teacher of {self.method.type} is a moving average already: leave ema_decay out")
        return self

    def _check_views(self) -> None:
        count = sum(view.count for view in self.views)
        name, first = self.method.type, self.views[0]
        if name == "dino" and (first.count < 2 or first.size is not None):
            raise ValueError("the first entry of dino's views has at least two views of the model's own size")
        if name == "mae" and (count != 1 or first.size is not None):
            raise ValueError(f"mae takes one view of the model's own size, got {count}")
        if name in ("simclr", "byol", "moco") and count != 2:
            raise ValueError(f"{name} takes two views, got {count}")
