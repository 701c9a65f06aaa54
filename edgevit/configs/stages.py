"""Stages that make files, measure them and ship them; and the list of all stages."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self, get_args

from pydantic import Field, model_validator

from edgevit.artifacts import Kind
from edgevit.configs.fields import (
    CheckpointRef,
    Count,
    DatasetRef,
    FileModelRef,
    Fraction,
    MeasurementRef,
    ModelRef,
    NonNegative,
    OnnxRef,
    Positive,
)
from edgevit.configs.stage import Stage
from edgevit.configs.training import Distill, Fewshot, Load, Train

Corruption = Literal["brightness", "darkness", "contrast", "blur", "noise", "jpeg", "fog", "snow"]
CORRUPTIONS: tuple[Corruption, ...] = get_args(Corruption)
Severity = Annotated[int, Field(ge=1, le=5)]


class PseudoLabel(Stage):
    """A teacher's labels for images without any (labels they have are ignored); those it is sure of are kept."""

    stage: Literal["pseudolabel"]
    makes: ClassVar[Kind] = "dataset"
    teacher: CheckpointRef
    data: DatasetRef
    calibration: DatasetRef | None = Field(
        None, description="labelled images that the teacher was not trained on: its temperature is fitted to them"
    )
    threshold: Fraction = Field(0.8, description="least confidence, after calibration")
    balance: bool = Field(False, description="no class keeps more images than the median class; the surest stay")
    most_per_class: Count | None = Field(None, description="no class keeps more than so many; the surest stay")


class Export(Stage):
    """Checkpoint → ONNX."""

    stage: Literal["export"]
    makes: ClassVar[Kind] = "onnx"
    model: CheckpointRef
    opset: Annotated[int, Field(ge=17, le=23)] = 20
    dynamic_batch: bool = True


class Quantize(Stage):
    """ONNX → ONNX with Q/DQ: INT8 weights and activations, calibrated on images (post-training quantization)."""

    stage: Literal["quantize"]
    makes: ClassVar[Kind] = "onnx"
    model: OnnxRef
    calibration: DatasetRef
    calibration_images: Count = Field(256, description="how many images of the calibration set are used")
    calibrator: Literal["minmax", "entropy", "percentile"] = "minmax"
    runtime: Literal["onnxruntime"] = "onnxruntime"
    min_sqnr_db: float = Field(10.0, description="parity gate: least signal-to-quantization-noise ratio of the logits")
    seed: int = 0


class _OnTarget(Stage):
    target: Literal["local-cpu", "local-gpu"] = "local-cpu"


class Compile(_OnTarget):
    """ONNX → what the target's runtime loads."""

    stage: Literal["compile"]
    makes: ClassVar[Kind] = "engine"
    model: OnnxRef
    runtime: Literal["onnxruntime"] = "onnxruntime"


class Evaluate(_OnTarget):
    """Accuracy of a checkpoint, an ONNX file or an engine, by running it where it will run."""

    stage: Literal["evaluate"]
    makes: ClassVar[Kind] = "evaluation"
    model: ModelRef
    data: DatasetRef
    batch_size: Count = 32
    protocol: Literal["standard", "corruptions"] = Field(
        "standard", description="corruptions: the same images hurt in known ways too, alike for every model"
    )
    kinds: tuple[Corruption, ...] = Field(CORRUPTIONS, description="with protocol: corruptions")
    severities: tuple[Severity, ...] = Field((1, 2, 3, 4, 5), description="with protocol: corruptions")
    max_images: Count = Field(
        1000, description="with protocol: corruptions; of a larger set this many, drawn by the hash of their ids"
    )
    seed: int = Field(0, description="with protocol: corruptions; of their draws and of that of the images")

    @model_validator(mode="after")
    def _options_of_the_protocol(self) -> Self:
        options = ("kinds", "severities", "max_images", "seed")
        given = [name for name in options if getattr(self, name) != type(self).model_fields[name].default]
        if self.protocol != "corruptions" and given:
            raise ValueError(f"'{given[0]}' goes with protocol: corruptions")
        for name in ("kinds", "severities"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"'{name}' names {'one of them twice' if values else 'none'}")
        return self


class Profile(_OnTarget):
    """Latency of a checkpoint, an ONNX file or an engine."""

    stage: Literal["profile"]
    makes: ClassVar[Kind] = "latency"
    model: ModelRef
    batch_size: Count = 1
    threads: Count = Field(1, description="CPU threads of the runtime")
    precision: Literal["float32", "float16"] = Field("float32", description="float16: torch on local-gpu")
    boundary: Literal["compute", "end_to_end"] = Field(
        "compute", description="end_to_end adds decoding and preprocessing"
    )
    warmup_s: NonNegative = 0.5
    duration_s: Positive = 3.0
    min_runs: Count = 100


class Bundle(Stage):
    """What goes to the device: model, labels, IOSpec, a runner and the hash of each file."""

    stage: Literal["bundle"]
    makes: ClassVar[Kind] = "bundle"
    model: FileModelRef


class Report(Stage):
    """One page that answers whether the budget is met, with everything behind the answer."""

    stage: Literal["report"]
    makes: ClassVar[Kind] = "report"
    reads_budget: ClassVar[bool] = True
    reads_names: ClassVar[bool] = True
    of: tuple[MeasurementRef, ...] = Field(
        min_length=1, description="evaluations and latencies; a pattern like latency/* collects"
    )


StageConfig = Annotated[
    Load | Train | Fewshot | Distill | PseudoLabel | Export | Quantize | Compile | Evaluate | Profile | Bundle | Report,
    Field(discriminator="stage"),
]

STAGES: dict[str, type[Stage]] = {config.name(): config for config in get_args(get_args(StageConfig)[0])}
