"""Stages that make files, measure them and ship them; and the list of all stages."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field

from edgevit.artifacts import Kind
from edgevit.configs.evaluation import Evaluate
from edgevit.configs.fewshot import Fewshot
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
from edgevit.configs.stage import OnTarget, Stage
from edgevit.configs.training import Distill, Load, Train


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
    precision: Literal["float32", "float16"] = Field(
        "float32", description="float16: all but inputs and outputs, for TensorRT; what is to be quantized is float32"
    )
    normalise: bool = Field(
        False, description="scale and normalise inside the graph: its input is the resized picture, uint8 (N, H, W, 3)"
    )
    embedding: bool = Field(
        False, description="a second output, what enters the classifier, so that classes can be added to the bundle"
    )


class Quantize(Stage):
    """ONNX → ONNX with Q/DQ: INT8 weights and activations, calibrated on images (post-training quantization)."""

    stage: Literal["quantize"]
    makes: ClassVar[Kind] = "onnx"
    version: ClassVar[int] = 3
    model: OnnxRef
    calibration: DatasetRef
    calibration_images: Count = Field(256, description="how many images of the calibration set are used")
    calibrator: Literal["minmax", "entropy", "percentile"] = "minmax"
    runtime: Literal["onnxruntime", "tensorrt"] = Field(
        "onnxruntime", description="whose dialect the graph is written in; what stays float is float16 for tensorrt"
    )
    min_sqnr_db: float = Field(10.0, description="parity gate: least signal-to-quantization-noise ratio of the logits")
    seed: int = 0


class Compile(OnTarget):
    """ONNX → what the target's runtime loads."""

    stage: Literal["compile"]
    makes: ClassVar[Kind] = "engine"
    model: OnnxRef
    runtime: Literal["onnxruntime"] = "onnxruntime"


class Profile(OnTarget):
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


class Check(Stage):
    """What NVIDIA's builder makes of an ONNX file for TensorRT, on this machine and without a GPU.

    Without the extra tensorrt-check it answers by rules and tables alone; `--fresh` asks again once that is installed.
    """

    stage: Literal["check"]
    makes: ClassVar[Kind] = "check"
    model: OnnxRef


class Bundle(Stage):
    """What goes to the device: model, labels, IOSpec, a runner and the hash of each file."""

    stage: Literal["bundle"]
    makes: ClassVar[Kind] = "bundle"
    model: FileModelRef
    support: DatasetRef | None = Field(
        None,
        description="labelled images of each class: with them the bundle can take more classes on the device; needs a "
        "model that was exported with embedding: true",
    )


class Report(Stage):
    """One page that answers whether the budget is met, with everything behind the answer."""

    stage: Literal["report"]
    makes: ClassVar[Kind] = "report"
    version: ClassVar[int] = 3
    reads_budget: ClassVar[bool] = True
    reads_names: ClassVar[bool] = True
    of: tuple[MeasurementRef, ...] = Field(
        min_length=1, description="evaluations, latencies and checks; a pattern like latency/* collects"
    )


StageConfig = Annotated[
    Load
    | Train
    | Fewshot
    | Distill
    | PseudoLabel
    | Export
    | Quantize
    | Compile
    | Evaluate
    | Profile
    | Check
    | Bundle
    | Report,
    Field(discriminator="stage"),
]

STAGES: dict[str, type[Stage]] = {config.name(): config for config in get_args(get_args(StageConfig)[0])}
