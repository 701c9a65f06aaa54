"""The config of the stage `fewshot`, and the names of its methods."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field, model_validator

from edgevit.configs.fields import AdaptedTo, Added, CheckpointRef, Count, ImageCount, LearnedFrom, Rate, ViewCount
from edgevit.configs.stage import Stage
from edgevit.configs.training import ClassifierTraining, Views

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
WITHOUT_LOSS: tuple[HeadMethod, ...] = ("nearest_centroid", "knn")
HEAD_IMBALANCE_OPTIONS = ("class_weights", "class_weights_beta", "logit_adjustment")


class Fewshot(ClassifierTraining):
    """The stage `fewshot`: adapt a checkpoint to the classes of a small support set, with or without a pool.

    The block `few_shot` of a data set (`FewShotDraw`) draws its support and pool.
    """

    stage: Literal["fewshot"]
    version: ClassVar[int] = 3

    model: CheckpointRef = Field(description="Model whose features are used.")
    support: AdaptedTo = Field(description="Labelled images of each class, such as `DATASET.support`.")
    pool: LearnedFrom | None = Field(
        None, description="Images of the same classes without labels, such as `DATASET.pool`, for transductive methods."
    )
    base: LearnedFrom | None = Field(
        None,
        description="Images whose mean feature is subtracted from all features. By default, support and pool.",
    )
    method: Literal[HeadMethod, "auto", "finetune"] | None = Field(
        None,
        description="Method that makes the classifier. By default, `label_propagation` with a pool and "
        "`logistic_regression` without. `auto` chooses by cross-validation inside the support set.",
    )
    candidates: tuple[Literal[HeadMethod, "finetune"], ...] = Field(
        (), description="Methods that `auto` chooses from. By default, all heads that need no balanced pool."
    )
    max_pool_images: ImageCount = Field(
        4000, description="Largest number of pool images that a head uses. The hash of the id chooses them."
    )

    random_views: ViewCount = Field(
        8,
        description="Number of random views of each support image. A head is fitted to the mean feature of the image "
        "and its views.",
    )
    pool_views: Annotated[ViewCount | None, Added()] = Field(
        None,
        description="Number of random views of each image of pool and base. By default, that of `random_views`. "
        "With 0, a large pool takes a fraction of the time.",
    )
    tune: Literal["all", "norm", "bias", "lora"] = Field(
        "all",
        description="Weights that `finetune` trains beside the classifier: all, the normalization layers, the biases "
        "(BitFit), or a low-rank change of each linear layer and convolution (LoRA).",
    )
    lora_rank: Count = Field(4, description="Largest rank of the change to a layer's weights, with `tune: lora`.")
    learning_rates: Annotated[tuple[Rate, ...], Field(min_length=1)] | None = Field(
        None,
        description="Learning rates that `finetune` chooses from by cross-validation inside the support set. 0 keeps "
        "the model as the head left it. With one image of a class, `learning_rate` is used.",
    )
    test_time_views: Views = Field(
        (), description="Views whose answers are averaged with the answer for the image. Each view costs one more pass."
    )

    @model_validator(mode="after")
    def _options_of_the_method(self) -> Fewshot:
        if self.candidates and self.method != "auto":
            raise ValueError("'candidates' goes with method: auto")
        if self.method == "finetune" or "finetune" in self.candidates:
            return self
        of_heads = {"augmentation", "seed", *HEAD_IMBALANCE_OPTIONS}
        options = ClassifierTraining.model_fields.keys() - Stage.model_fields.keys() - of_heads
        for name in (*sorted(options), "tune", "lora_rank", "learning_rates"):
            if self.is_given(name):
                raise ValueError(f"'{name}' goes with method: finetune; a head is fitted without it")
        return self

    @model_validator(mode="after")
    def _imbalance_options_of_the_method(self) -> Fewshot:
        for name in HEAD_IMBALANCE_OPTIONS:
            if self.method in WITHOUT_LOSS and self.is_given(name):
                raise ValueError(
                    f"'{name}' changes a loss, and {self.method} has none: take method: logistic_regression or ridge"
                )
        return self

    @model_validator(mode="after")
    def _options_of_finetuning(self) -> Fewshot:
        if self.is_given("lora_rank") and self.tune != "lora":
            raise ValueError(f"'lora_rank' goes with tune: lora, not with tune: {self.tune}")
        if self.tune != "all" and self.freeze is not None:
            raise ValueError(f"'freeze' and tune: {self.tune} both choose the trained weights: give one of them")
        for name in ("candidates", "learning_rates"):
            values = getattr(self, name) or ()
            if len(set(values)) < len(values):
                raise ValueError(f"'{name}' has a value twice: {', '.join(map(str, values))}")
        return self
