"""Stages that make checkpoints, and what all training shares."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from edgevit.artifacts import Frozen, Kind
from edgevit.configs.fields import CheckpointRef, Count, DatasetRef, Fraction, NonNegative, Positive, ReadsFile
from edgevit.configs.objectives import Objective
from edgevit.configs.stage import Stage


class Augmentation(Frozen):
    """Random changes to training images; each draw is a function of (seed, epoch, view, sample)."""

    scale: tuple[Fraction, Fraction] = Field((0.6, 1.0), description="area of the random crop")
    ratio: tuple[Positive, Positive] = (0.75, 4 / 3)
    horizontal_flip: Fraction = 0.5
    color_jitter: NonNegative = 0.0
    auto_augment: str | None = Field(None, description="a timm policy, such as rand-m9-mstd0.5-inc1")
    random_erasing: Fraction = 0.0
    rotate_degrees: NonNegative = 0.0
    mixup: NonNegative = Field(0.0, description="alpha of mixup; 0 is off")
    cutmix: NonNegative = Field(0.0, description="alpha of cutmix; 0 is off")


class Training(Stage):
    """Fields of every stage that trains."""

    makes: ClassVar[Kind] = "checkpoint"

    epochs: Annotated[int, Field(ge=0)] = Field(10, description="passes over the first stream")
    batch_size: Count = 64
    learning_rate: Annotated[float, Field(ge=0)] = 5e-4
    weight_decay: NonNegative = 0.05
    optimizer: str = Field("adamw", description="any timm optimiser")
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_fraction: Fraction = Field(0.05, description="share of the steps over which the learning rate rises")
    clip_grad_norm: Positive | None = None
    label_smoothing: Fraction = 0.0
    drop_path_rate: Fraction = 0.0
    ema_decay: Fraction | None = Field(
        None, description="keep an exponential moving average of the weights, and ship it"
    )
    augmentation: Augmentation = Augmentation()
    seed: int = 0


class Load(Stage):
    """Take a timm model: pretrained, from a safetensors or timm checkpoint on disk, or as initialised."""

    stage: Literal["load"]
    makes: ClassVar[Kind] = "checkpoint"

    model: str = Field(description="a timm model name")
    model_args: dict[str, Any] = {}
    pretrained: bool = False
    weights: Annotated[str, ReadsFile()] | None = Field(
        None, description="a .safetensors file, or a .pth that holds tensors only; relative to the recipe"
    )
    classes: tuple[str, ...] | None = Field(None, description="class names in the order of the outputs")
    classes_of: DatasetRef | None = Field(None, description="or the data set that has them")
    image_size: Count | None = None


def _check_start(config: Train | Distill) -> None:
    if (config.model is None) == (config.init is None):
        raise ValueError("give either 'model' (a timm name) or 'init' (an earlier checkpoint)")
    fixed = [name for name in ("model_args", "distillation_token") if getattr(config, name, None)]
    if config.init is not None and fixed:
        raise ValueError(f"'{fixed[0]}' goes with 'model'; a checkpoint given as 'init' keeps its own")


class Train(Training):
    """Train a classifier on labelled images."""

    stage: Literal["train"]
    model: str | None = Field(None, description="a timm model name; or give `init`")
    model_args: dict[str, Any] = {}
    init: CheckpointRef | None = Field(
        None, description="start from this checkpoint; the head is new where classes differ"
    )
    image_size: Count | None = Field(None, description="side in pixels; the model's own by default")
    data: DatasetRef
    val: DatasetRef | None = None

    @model_validator(mode="after")
    def _one_start(self) -> Train:
        _check_start(self)
        return self


class Fewshot(Training):
    """Adapt a checkpoint to the classes of a small support set, with or without an unlabelled pool."""

    stage: Literal["fewshot"]

    model: CheckpointRef
    support: DatasetRef
    pool: DatasetRef | None = None
    method: Literal["nearest_centroid", "logistic_regression", "label_propagation", "finetune"] | None = Field(
        None, description="label_propagation where there is a pool, else logistic_regression"
    )


class Stream(Frozen):
    """One source of training batches."""

    data: DatasetRef
    share: Annotated[float, Field(gt=0, le=1)] = Field(1.0, description="share of each batch; all shares add up to 1")


class Distill(Training):
    """Train a student to agree with a teacher."""

    stage: Literal["distill"]
    teacher: CheckpointRef
    model: str | None = Field(None, description="the student, a timm model name; or give `init`")
    model_args: dict[str, Any] = {}
    init: CheckpointRef | None = None
    distillation_token: bool = Field(False, description="a second token and head that learn from the teacher (DeiT)")
    image_size: Count | None = None
    streams: tuple[Stream, ...] = Field(min_length=1)
    objectives: tuple[Objective, ...] = Field(
        (Objective(loss="cross_entropy", weight=0.5), Objective(loss="hard", weight=0.5)), min_length=1
    )
    val: DatasetRef | None = None

    @model_validator(mode="after")
    def _checks(self) -> Distill:
        _check_start(self)
        total = sum(stream.share for stream in self.streams)
        if len(self.streams) > 1 and abs(total - 1) > 1e-6:
            raise ValueError(f"the shares of the streams must add up to 1, got {total:g}")
        return self
