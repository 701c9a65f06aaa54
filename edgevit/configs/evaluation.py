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
    DatasetRef,
    ImageCount,
    ModelRef,
    Positive,
    Seed,
    Severity,
)
from edgevit.configs.runtimes import FileRuntime
from edgevit.configs.stage import OnTarget

Corruption = Literal["brightness", "darkness", "contrast", "blur", "noise", "jpeg", "fog", "snow"]
CORRUPTIONS: tuple[Corruption, ...] = get_args(Corruption)

# The options of each protocol that has some.
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
    """Accuracy of a checkpoint, an ONNX file or an engine, by running it where it will run."""

    stage: Literal["evaluate"]
    makes: ClassVar[Kind] = "evaluation"
    version: ClassVar[int] = 3
    model: ModelRef
    data: DatasetRef
    batch_size: BatchSize = 32
    runtime: FileRuntime | None = Field(None, description="what opens an ONNX file; by default what it was made for")
    protocol: Literal["standard", "corruptions", "episodes"] = Field(
        "standard",
        description="corruptions: the same images hurt in known ways too, alike for every model; episodes: how well "
        "its features serve to learn classes from a few images, over many draws",
    )
    kinds: tuple[Corruption, ...] = Field(CORRUPTIONS, description="with protocol: corruptions")
    severities: tuple[Severity, ...] = Field((1, 2, 3, 4, 5), description="with protocol: corruptions")
    max_images: ImageCount = Field(
        1000, description="with protocol: corruptions; of a larger set this many, drawn by the hash of their ids"
    )
    methods: tuple[Literal[HeadMethod, "auto"], ...] = Field(
        ("nearest_centroid",), description="with protocol: episodes; each is compared with the first"
    )
    ways: ClassCount | None = Field(None, description="with protocol: episodes; classes in each, all by default")
    shots: Count = Field(5, description="with protocol: episodes; labelled images of each class")
    queries: Count | None = Field(
        None, description="with protocol: episodes; images of each class to be answered, all by default"
    )
    episodes: Count = Field(600, description="with protocol: episodes; how many")
    imbalance: Positive | None = Field(
        None,
        description="with protocol: episodes; the shares of the classes among the queries are drawn from a Dirichlet "
        "distribution of this concentration (2 is usual), where transduction may do harm; equal by default",
    )
    support: DatasetRef | None = Field(
        None, description="with protocol: episodes; where supports are drawn from, the data itself by default"
    )
    pool: DatasetRef | None = Field(
        None, description="with protocol: episodes; what transductive methods learn from, the queries by default"
    )
    base: DatasetRef | None = Field(
        None, description="with protocol: episodes; features are taken relative to the mean of these"
    )
    max_pool_images: ImageCount = Field(4000, description="with protocol: episodes; so many of a larger pool or base")
    seed: Seed = Field(0, description="with protocol: corruptions or episodes; of what they draw")

    @model_validator(mode="after")
    def _options_of_the_protocol(self) -> Self:
        defaults = {name: info.default for name, info in type(self).model_fields.items()}
        for name, default in defaults.items():
            protocols = [one for one, options in OPTIONS.items() if name in options]
            if protocols and self.protocol not in protocols and getattr(self, name) != default:
                raise ValueError(f"'{name}' goes with protocol: {' or '.join(protocols)}")
        for name in ("kinds", "severities", "methods"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"'{name}' names {'one of them twice' if values else 'none'}")
        return self
