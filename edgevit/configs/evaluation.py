"""The stage that measures accuracy, by one of several protocols."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self, get_args

from pydantic import Field, model_validator

from edgevit.artifacts import Kind
from edgevit.configs.fewshot import HeadMethod
from edgevit.configs.fields import (
    Added,
    BatchSize,
    ClassCount,
    CosineTemperature,
    Count,
    ImageCount,
    JudgedBy,
    LearnedFrom,
    ModelRef,
    Positive,
    Seed,
    Severity,
    Share,
)
from edgevit.configs.runtimes import FileRuntime
from edgevit.configs.stage import OnTarget
from edgevit.configs.training import Augmentation

Corruption = Literal["brightness", "darkness", "contrast", "blur", "noise", "jpeg", "fog", "snow"]
CORRUPTIONS: tuple[Corruption, ...] = get_args(Corruption)

# The options of each protocol.
OPTIONS = {
    "corruptions": ("kinds", "severities", "max_images", "seed"),
    "episodes": (
        "methods",
        "ways",
        "shots",
        "queries",
        "episodes",
        "imbalance",
        "support",
        "pool",
        "base",
        "max_pool_images",
        "seed",
    ),
    "cross_validation": ("methods", "seed"),
    "knn": ("support", "neighbors", "temperature", "label_shares", "draws", "augmentation", "seed"),
    "linear": ("support", "label_shares", "draws", "seed"),
}
OF_NEW_HEADS = ("episodes", "knn", "linear")  # protocols that measure features, not the model's own classifier


class Evaluate(OnTarget):
    """Measure the accuracy of a checkpoint, an ONNX file or a compiled model on the target."""

    stage: Literal["evaluate"]
    makes: ClassVar[Kind] = "evaluation"
    reads_test_images: ClassVar[bool] = True
    version: ClassVar[int] = 5
    model: ModelRef = Field(description="Model to evaluate.")
    data: JudgedBy = Field(description="Labelled images to evaluate on.")
    batch_size: BatchSize = Field(32, description="Number of images that the model gets at once.")
    runtime: FileRuntime | None = Field(
        None, description="Runtime that opens an ONNX file. By default, the runtime that the file was made for."
    )
    protocol: Literal["standard", "corruptions", "episodes", "cross_validation", "knn", "linear"] = Field(
        "standard",
        description="Kind of evaluation. `standard`: accuracy on the images. `corruptions`: also accuracy on "
        "corrupted copies, which are the same for every model. `episodes`: accuracy of few-shot heads on the model's "
        "features over many draws of classes and support sets. `cross_validation`: accuracy without test images; each "
        "image of `data` is classified by a head on the model's features that was fitted without it. `knn`: accuracy "
        "of the votes of the nearest images of `support` among the model's features. `linear`: accuracy of logistic "
        "regression on the features of `support`.",
    )
    kinds: tuple[Corruption, ...] = Field(
        CORRUPTIONS, description="Corruptions to apply, with `protocol: corruptions`."
    )
    severities: tuple[Severity, ...] = Field(
        (1, 2, 3, 4, 5), description="Strengths of the corruptions, with `protocol: corruptions`. 5 is the strongest."
    )
    max_images: ImageCount = Field(
        1000,
        description="Largest number of images to corrupt, with `protocol: corruptions`. Hashes of their ids choose "
        "them.",
    )
    methods: tuple[Literal[HeadMethod, "auto"], ...] = Field(
        ("nearest_centroid",),
        description="Few-shot methods, with `protocol: episodes`: each is compared with the first. A single method, "
        "with `protocol: cross_validation`.",
    )
    ways: ClassCount | None = Field(
        None, description="Number of classes in an episode, with `protocol: episodes`. All classes by default."
    )
    shots: Count = Field(5, description="Number of labelled images of each class, with `protocol: episodes`.")
    queries: Count | None = Field(
        None, description="Number of query images of each class, with `protocol: episodes`. All by default."
    )
    episodes: Count = Field(600, description="Number of episodes, with `protocol: episodes`.")
    imbalance: Positive | None = Field(
        None,
        description="Concentration of the Dirichlet distribution that draws the share of each class among the queries, "
        "with `protocol: episodes`. 2 is usual. By default, all classes have equal shares.",
    )
    support: LearnedFrom | None = Field(
        None,
        description="Labelled images that heads are fitted to. With `protocol: episodes`, support sets are drawn from "
        "them; by default from `data`. `protocol: knn` and `protocol: linear` need them.",
    )
    pool: LearnedFrom | None = Field(
        None,
        description="Images that transductive methods learn from, with `protocol: episodes`. By default, the queries.",
    )
    base: LearnedFrom | None = Field(
        None, description="Images whose mean feature is subtracted from all features, with `protocol: episodes`."
    )
    max_pool_images: ImageCount = Field(
        4000, description="Largest number of images of pool or base, with `protocol: episodes`."
    )
    neighbors: Annotated[tuple[Count, ...], Added()] = Field(
        (10, 20, 100, 200),
        description="Numbers of neighbors k that vote, with `protocol: knn`. Each k is reported. A k above the number "
        "of labelled images is left out.",
    )
    temperature: Annotated[CosineTemperature, Added()] = Field(
        0.07, description="Temperature τ of a vote, which weighs exp(cosine/τ), with `protocol: knn`."
    )
    label_shares: Annotated[tuple[Share, ...], Added()] = Field(
        (1.0,),
        description="Shares of the labels of `support` that are used, with `protocol: knn` or `protocol: linear`: "
        "`[1, 0.1, 0.01]` also measures with 10% and 1%. Each class keeps one image at least.",
    )
    draws: Annotated[Count, Added()] = Field(
        5, description="Number of random draws of each share below 1, with `protocol: knn` or `protocol: linear`."
    )
    augmentation: Annotated[Augmentation, Added()] = Field(
        Augmentation(), description="Random changes of the two views that alignment compares, with `protocol: knn`."
    )
    seed: Seed = Field(0, description="Seed of the draws, with any `protocol` but `standard`.")

    def runtime_on(self, target: str) -> str | None:
        """The runtime that opens the model, if the stage names it."""
        return self.runtime

    @model_validator(mode="after")
    def _options_of_the_protocol(self) -> Self:
        defaults = {name: info.default for name, info in type(self).model_fields.items()}
        for name, default in defaults.items():
            protocols = [protocol for protocol, options in OPTIONS.items() if name in options]
            if protocols and self.protocol not in protocols and getattr(self, name) != default:
                raise ValueError(f"'{name}' goes with protocol: {' or '.join(protocols)}")
        for name in ("kinds", "severities", "methods", "neighbors", "label_shares"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"'{name}' {'has a value twice' if values else 'is empty'}")
        if self.protocol == "cross_validation":
            self._check_method()
        if self.protocol in ("knn", "linear"):
            self._check_support()
        return self

    def _check_method(self) -> None:
        """Raise ValueError unless a single method is given that needs no pool."""
        usable = ("nearest_centroid", "ridge", "logistic_regression", "knn")
        if len(self.methods) > 1 or self.methods[0] not in usable:
            raise ValueError(f"protocol: cross_validation takes one of the methods {', '.join(usable)}")

    def _check_support(self) -> None:
        """Raise ValueError if there are no images to fit to, or too few draws for an interval."""
        if self.support is None:
            raise ValueError(f"protocol: {self.protocol} needs 'support': labelled images that the head is fitted to")
        if min(self.label_shares) < 1 and self.draws < 2:
            raise ValueError("a share of the labels needs at least 2 'draws': with a single one, chance is not seen")
