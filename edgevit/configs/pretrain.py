"""The stage `pretrain`: self-supervised training on images without labels."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from edgevit.configs.fields import CheckpointRef, LearnedFrom, ModelArgs, Side
from edgevit.configs.pretrain_methods import (
    METHODS,
    Auto,
    Byol,
    Dino,
    EsVit,
    Fcmae,
    Jigsaw,
    Mae,
    Moco,
    Pirl,
    PretrainAugmentation,
    PretrainMethod,
    Rotation,
    SelfDistillation,
    SimClr,
    Sit,
)
from edgevit.configs.training import Augmentation, Training, ViewSpec, check_start

BY_NAME = {method.model_fields["type"].default: method for method in METHODS}
MethodName = Literal[
    "dino", "esvit", "simclr", "moco", "pirl", "byol", "mae", "fcmae", "sit", "rotation", "jigsaw", "auto"
]
AnyMethod = Dino | EsVit | SimClr | Moco | Pirl | Byol | Mae | Fcmae | Sit | Rotation | Jigsaw | Auto


def _over_defaults(given: Any, method: type[PretrainMethod]) -> Any:
    """The augmentation of a recipe, with the method's value of each key that is not given."""
    if isinstance(given, str):
        given = {"preset": given}
    return {**method.augmentation.model_dump(exclude_unset=True), **given} if isinstance(given, dict) else given


def _typed(given: Any) -> Any:
    return {"type": given} if isinstance(given, str) else given


Method = Annotated[
    Annotated[AnyMethod, Field(discriminator="type")],
    BeforeValidator(_typed, json_schema_input_type=MethodName | AnyMethod),
]


class Pretrain(Training):
    """Train a backbone on images without labels. Its classifier is not trained.

    The result is for `fewshot`, `train` and `distill`. Labels that the images have are not used.
    """

    version: ClassVar[int] = 4

    stage: Literal["pretrain"]
    model: str | None = Field(None, description="Model by its timm name. Give `model` or `init`.")
    model_args: ModelArgs = Field({}, description="Arguments of timm's `create_model`.")
    init: CheckpointRef | None = Field(None, description="Checkpoint to start from. It keeps its classes.")
    image_size: Side | None = Field(None, description="Side of the input in pixels. By default, the model's own.")
    data: LearnedFrom = Field(description="Images to learn from. Labels are not used.")
    method: Method = Field(
        Dino(),
        description="Method by its name: dino, esvit, simclr, moco, pirl, byol, mae, fcmae, sit, rotation, jigsaw or "
        "auto; or a block with its `type` and options.",
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
        chosen = BY_NAME.get(name) if isinstance(name, str) else None
        if chosen is None or chosen is Auto:
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
        if self.accumulation > 1 and self.method.compares_images:
            raise ValueError(f"{self.method.type} compares the images of a batch: leave accumulation out")
        if self.ema_decay is not None and isinstance(self.method, Auto):
            raise ValueError("auto may take a method whose teacher is a moving average already: leave ema_decay out")
        if self.ema_decay is not None and self.method.has_moving_teacher:
            raise ValueError(f"the teacher of {self.method.type} is a moving average already: leave ema_decay out")
        if self.grad_checkpointing and isinstance(self.method, Fcmae):
            raise ValueError("fcmae masks a pass, which grad_checkpointing would repeat unmasked: leave it out")
        return self

    def _check_views(self) -> None:
        count, expected = (sum(view.count for view in views) for views in (self.views, self.method.views))
        name, first = self.method.type, self.views[0]
        if isinstance(self.method, SelfDistillation):
            if first.count < 2 or first.size is not None:
                raise ValueError(f"the first entry of {name}'s views has at least two views of the model's own size")
        elif isinstance(self.method, Auto):
            if self.views != Dino.views:
                raise ValueError(
                    "auto takes the views of the method that it chooses: name a method, or leave out views"
                )
        elif count != expected:
            raise ValueError(f"{name} takes {'one view' if expected == 1 else 'two views'}, got {count}")
        elif expected == 1 and first.size is not None:
            raise ValueError(f"{name} takes one view of the model's own size, got {first.size} px")
        elif isinstance(self.method, Sit) and any(view.size is not None for view in self.views):
            raise ValueError("sit takes views of the model's own size: leave size out")
