"""The stage that adapts a model to a few images, and its methods."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field, model_validator

from edgevit.configs.fields import AdaptedTo, CheckpointRef, Count, ImageCount, LearnedFrom, Rate, ViewCount
from edgevit.configs.stage import Stage
from edgevit.configs.training import Training, Views

HeadMethod = Literal[
    "nearest_centroid",
    "ridge",
    "logistic_regression",
    "knn",
    "label_propagation",
    "gaussian_mixture",
    "balanced_mixture",
    "alpha_tim",
]
HEAD_METHODS: tuple[HeadMethod, ...] = get_args(HeadMethod)


class Fewshot(Training):
    """Adapt a checkpoint to the classes of a small support set, with or without an unlabelled pool."""

    stage: Literal["fewshot"]
    version: ClassVar[int] = 3

    model: CheckpointRef
    support: AdaptedTo
    pool: LearnedFrom | None = None
    base: LearnedFrom | None = Field(
        None,
        description="heads take features relative to the mean over this data set; by default over support and pool",
    )
    method: Literal[HeadMethod, "auto", "finetune"] | None = Field(
        None, description="default: label_propagation with a pool, else logistic_regression; auto: by cross-validation"
    )
    candidates: tuple[Literal[HeadMethod, "finetune"], ...] = Field(
        (), description="candidates of auto; by default all heads that need no balanced pool"
    )
    max_pool_images: ImageCount = Field(
        4000, description="most images of the pool for heads; a larger pool is sampled by the hash of the ids"
    )

    random_views: ViewCount = Field(
        8, description="heads are fitted to the mean feature of an image and this many random views of it"
    )
    tune: Literal["all", "norm", "bias", "lora"] = Field(
        "all",
        description="weights that finetune trains beside the classifier: all, the normalization layers, the biases "
        "(BitFit), or a low-rank change of each linear layer and convolution (LoRA)",
    )
    lora_rank: Count = Field(4, description="with tune: lora; the largest rank of the change of a layer's weights")
    learning_rates: Annotated[tuple[Rate, ...], Field(min_length=1)] | None = Field(
        None,
        description="candidates; finetune chooses one by cross-validation inside the support; 0 keeps the model as "
        "it is after the fit of the head. A support with one image of a class takes learning_rate",
    )
    test_time_views: Views = Field(
        (), description="predictions are the mean over the picture and these views of it; each view costs one more pass"
    )

    @model_validator(mode="after")
    def _options_of_the_method(self) -> Fewshot:
        if self.candidates and self.method != "auto":
            raise ValueError("'candidates' goes with method: auto")
        if self.method == "finetune" or "finetune" in self.candidates:
            return self
        options = Training.model_fields.keys() - Stage.model_fields.keys() - {"augmentation", "seed"}
        for name in (*sorted(options), "tune", "lora_rank", "learning_rates"):
            if getattr(self, name) != Fewshot.model_fields[name].default:
                raise ValueError(f"'{name}' goes with method: finetune; a head is fitted without it")
        return self

    @model_validator(mode="after")
    def _options_of_finetuning(self) -> Fewshot:
        if self.lora_rank != Fewshot.model_fields["lora_rank"].default and self.tune != "lora":
            raise ValueError(f"'lora_rank' goes with tune: lora, not with tune: {self.tune}")
        if self.tune != "all" and self.freeze is not None:
            raise ValueError(f"'freeze' and tune: {self.tune} both choose the trained weights: give one of them")
        for name in ("candidates", "learning_rates"):
            values = getattr(self, name) or ()
            if len(set(values)) < len(values):
                raise ValueError(f"'{name}' has a value twice: {', '.join(map(str, values))}")
        return self
