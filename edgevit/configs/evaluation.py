"""The stage that measures accuracy, by one of several protocols."""

from __future__ import annotations

from typing import ClassVar, Literal, Self, get_args

from pydantic import Field, model_validator

from edgevit.artifacts import Kind
from edgevit.configs.fewshot import HeadMethod
from edgevit.configs.fields import (
    BatchSize,
    ClassCount,
    Count,
    FileRuntime,
    ImageCount,
    JudgedBy,
    LearnedFrom,
    ModelRef,
    Positive,
    Seed,
    Severity,
)
from edgevit.configs.stage import OnTarget

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
}


class Evaluate(OnTarget):
    """Accuracy of a checkpoint, an ONNX file or an engine, measured on its target."""

    stage: Literal["evaluate"]
    makes: ClassVar[Kind] = "evaluation"
    version: ClassVar[int] = 3
    reads_test_images: ClassVar[bool] = True
    model: ModelRef
    data: JudgedBy
    batch_size: BatchSize = 32
    runtime: FileRuntime | None = Field(None, description="runtime of an ONNX file; by default the one it was made for")
    protocol: Literal["standard", "corruptions", "episodes"] = Field(
        "standard",
        description="corruptions: also on corrupted images, the same for every model; episodes: few-shot accuracy, of "
        "classes learned from a few images, over many draws",
    )
    kinds: tuple[Corruption, ...] = Field(CORRUPTIONS, description="with protocol: corruptions")
    severities: tuple[Severity, ...] = Field((1, 2, 3, 4, 5), description="with protocol: corruptions")
    max_images: ImageCount = Field(
        1000, description="with protocol: corruptions; most images; a larger set is sampled by the hash of the ids"
    )
    methods: tuple[Literal[HeadMethod, "auto"], ...] = Field(
        ("nearest_centroid",), description="with protocol: episodes; each is compared with the first"
    )
    ways: ClassCount | None = Field(
        None, description="with protocol: episodes; classes in each episode, all by default"
    )
    shots: Count = Field(5, description="with protocol: episodes; labelled images of each class")
    queries: Count | None = Field(
        None, description="with protocol: episodes; test images of each class, all others by default"
    )
    episodes: Count = Field(600, description="with protocol: episodes; number of episodes")
    imbalance: Positive | None = Field(
        None,
        description="with protocol: episodes; the shares of the classes among the queries are drawn from a Dirichlet "
        "distribution of this concentration (2 is usual); equal shares by default",
    )
    support: LearnedFrom | None = Field(
        None, description="with protocol: episodes; the data set of the supports; `data` by default"
    )
    pool: LearnedFrom | None = Field(
        None, description="with protocol: episodes; unlabelled images for transductive methods; the queries by default"
    )
    base: LearnedFrom | None = Field(
        None, description="with protocol: episodes; features are taken relative to the mean over this data set"
    )
    max_pool_images: ImageCount = Field(4000, description="with protocol: episodes; most images of pool and base")
    seed: Seed = Field(0, description="with protocol: corruptions or episodes; seed of the draws")

    @model_validator(mode="after")
    def _options_of_the_protocol(self) -> Self:
        defaults = {name: info.default for name, info in type(self).model_fields.items()}
        for name, default in defaults.items():
            protocols = [protocol for protocol, options in OPTIONS.items() if name in options]
            if protocols and self.protocol not in protocols and getattr(self, name) != default:
                raise ValueError(f"'{name}' goes with protocol: {' or '.join(protocols)}")
        for name in ("kinds", "severities", "methods"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"'{name}' {'has a value twice' if values else 'is empty'}")
        return self
