"""Stages that make files, measure them and ship them; and the list of all stages."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self, get_args

from pydantic import Field, model_validator

from edgevit.artifacts import Kind
from edgevit.configs.evaluation import Evaluate
from edgevit.configs.fewshot import Fewshot
from edgevit.configs.fields import (
    OPSET,
    BatchSize,
    Calibrator,
    CheckpointRef,
    Count,
    DatasetRef,
    Decibels,
    FileModelRef,
    Fraction,
    ImageCount,
    MeasuredSeconds,
    MeasurementRef,
    ModelRef,
    OnnxRef,
    Opset,
    QuantizedPrecision,
    Seed,
    Share,
    Threads,
    WarmupSeconds,
)
from edgevit.configs.runtimes import FileRuntime, QuantizedRuntime
from edgevit.configs.stage import OnTarget, Stage
from edgevit.configs.training import Distill, Load, Qat, Train


class PseudoLabel(Stage):
    """A teacher's labels for images without any (labels they have are ignored); those it is sure of are kept."""

    stage: Literal["pseudo_label"]
    makes: ClassVar[Kind] = "dataset"
    teacher: CheckpointRef
    data: DatasetRef
    calibration: DatasetRef | None = Field(
        None, description="labelled images that the teacher was not trained on: its temperature is fitted to them"
    )
    threshold: Fraction = Field(0.8, description="least confidence, after calibration")
    balance: bool = Field(False, description="no class keeps more images than the median class; the surest stay")
    most_per_class: ImageCount | None = Field(None, description="no class keeps more than so many; the surest stay")


class Prune(Stage):
    """Take out the attention heads, hidden units and blocks that matter least; what is left is to be trained again.

    Test-time views are dropped, as by training.
    """

    stage: Literal["prune"]
    makes: ClassVar[Kind] = "checkpoint"
    version: ClassVar[int] = 2
    model: CheckpointRef
    keep_macs: Share | None = Field(None, description="share of the multiply-accumulates that stays, at most")
    keep_params: Share | None = Field(None, description="or share of the parameters that stays, at most")
    keep_latency: Share | None = Field(
        None, description="or share of the latency that stays, at most: measured in ONNX Runtime on this machine"
    )
    threads: Threads = Field(1, description="CPU threads of the runtime while it is timed")
    structures: Annotated[tuple[Literal["heads", "hidden", "blocks"], ...], Field(min_length=1)] = Field(
        ("heads", "hidden"), description="what may go; blocks are whole residual blocks of plain ViTs"
    )
    score: Literal["taylor", "magnitude"] = Field(
        "taylor", description="by the change of the loss on `data`, or by the size of the weights"
    )
    data: DatasetRef | None = Field(None, description="images for taylor; labels are used where there are any")
    images: ImageCount = Field(256, description="how many of them are used")
    seed: Seed = 0

    @model_validator(mode="after")
    def _checks(self) -> Self:
        if [self.keep_macs, self.keep_params, self.keep_latency].count(None) != 2:
            raise ValueError("give one of 'keep_macs', 'keep_params' and 'keep_latency'")
        if self.threads != 1 and self.keep_latency is None:
            raise ValueError("'threads' goes with keep_latency: nothing else is timed")
        if self.score == "taylor" and self.data is None:
            raise ValueError("taylor looks at images: give 'data', or score: magnitude")
        if self.score == "magnitude" and (self.data is not None or "blocks" in self.structures):
            wrong = "data" if self.data is not None else "blocks"
            raise ValueError(f"magnitude ranks heads and hidden units by their weights alone: leave out {wrong}")
        return self

    @property
    def cost(self) -> Literal["macs", "params"]:
        """What units are weighed by; to a latency, MACs."""
        return "macs" if self.keep_params is None else "params"

    @property
    def keep(self) -> float | None:
        """The share of the cost that stays; None where it is to be found for a latency."""
        return self.keep_macs if self.keep_params is None else self.keep_params

    @property
    def target(self) -> Literal["local-cpu"] | None:
        """Where it is timed, which then decides the result."""
        return None if self.keep_latency is None else "local-cpu"

    @property
    def runtime_here(self) -> FileRuntime:
        """What times it there."""
        return "onnxruntime"


class Factorize(Stage):
    """Put two thin linear layers in the place of one where that is cheaper, by SVD weighted by what enters it.

    Test-time views are dropped, as by training.
    """

    stage: Literal["factorize"]
    makes: ClassVar[Kind] = "checkpoint"
    version: ClassVar[int] = 2
    model: CheckpointRef
    keep_macs: Share = Field(description="share of the multiply-accumulates that stays, at most")
    data: DatasetRef = Field(description="images, with labels or without, that show what enters the layers")
    images: ImageCount = Field(256, description="how many of them are used")
    seed: Seed = 0


class MergeTokens(Stage):
    """Let a plain ViT merge similar tokens from block to block (ToMe); it may be trained again so, or used as it is."""

    stage: Literal["merge_tokens"]
    makes: ClassVar[Kind] = "checkpoint"
    version: ClassVar[int] = 2
    model: CheckpointRef
    per_block: Count = Field(description="pairs of patch tokens that become one in each block")


class Export(Stage):
    """Checkpoint → ONNX."""

    stage: Literal["export"]
    makes: ClassVar[Kind] = "onnx"
    version: ClassVar[int] = 4
    model: CheckpointRef
    opset: Opset = OPSET
    runtime: FileRuntime = Field("onnxruntime", description="what opens the file on this machine")
    dynamic_batch: bool = True
    precision: Literal["float32", "float16"] = Field(
        "float32",
        description="float16, for TensorRT: all but inputs, outputs, and what leaves float16's range on random "
        "pictures; what is to be quantized is float32",
    )
    normalize: bool = Field(
        False, description="scale and normalize inside the graph: its input is the resized picture, uint8 (N, H, W, 3)"
    )
    embedding: bool = Field(
        False, description="a second output, what enters the classifier, so that classes can be added to the bundle"
    )


class Quantize(Stage):
    """ONNX → ONNX with Q/DQ, calibrated on images (post-training quantization): INT8, or FP8 or INT4 for TensorRT.

    Where it is timed (placement: fastest, but for tensorrt) and no form is faster than the float model, the float model
    comes out.
    """

    stage: Literal["quantize"]
    makes: ClassVar[Kind] = "onnx"
    version: ClassVar[int] = 5
    model: OnnxRef
    calibration: DatasetRef
    calibration_images: ImageCount = Field(256, description="how many images of the calibration set are used")
    calibrator: Literal[Calibrator, "trained"] = Field(
        "minmax",
        description="trained: the ranges that came out of a qat stage and that the export carries; tensors without any "
        "are calibrated by minmax",
    )
    smoothquant: Fraction | None = Field(
        None, description="share α of large activation channels that the weights take over (SmoothQuant); 0.5 is usual"
    )
    bias_correction: bool = Field(
        False,
        description="change biases so that each channel of an integer layer keeps the mean that it has in float; worth "
        "its minutes above all where convolutions have a group for each channel",
    )
    runtime: QuantizedRuntime = Field(
        "onnxruntime", description="whose dialect the graph is written in; what stays float is float16 for tensorrt"
    )
    precision: QuantizedPrecision = Field(
        "int8",
        description="float8 and int4 are for tensorrt. float8: weights and activations in E4M3, which Ada, Hopper, "
        "Blackwell and Jetson Thor multiply, Orin (Ampere) does not. int4: weights of products (MatMul, Gemm) alone, a "
        "scale for each 64 inputs, for the smallest file; activations stay float16. It takes a parser of opset 21, "
        "which JetPack 6 has not",
    )
    placement: Literal["fastest", "all", "dense", "products"] = Field(
        "fastest",
        description="what becomes integers: all that the dialect quantizes; the same without grouped convolutions "
        "(dense); products (MatMul, Gemm) alone; or the fastest of these, timed in turns with the float model on this "
        "machine, which ships where none is faster (for tensorrt, which does not run here: all)",
    )
    threads: Threads = Field(1, description="CPU threads of the runtime while it is timed")
    min_sqnr_db: Decibels | None = Field(
        None,
        description="parity gate: least signal-to-quantization-noise ratio of the logits; the layers that cost most "
        "stay float where the model would be below it; 10 by default, and 0 with calibrator: trained",
    )
    sensitivity: bool = Field(
        False, description="measure what each layer alone costs, whether the gate needs it or not"
    )
    seed: Seed = 0

    @model_validator(mode="after")
    def _ranges_belong_to_the_weights(self) -> Self:
        if self.calibrator == "trained" and self.smoothquant is not None:
            raise ValueError("smoothquant changes what the trained ranges are of: leave it out, or calibrate anew")
        if self.calibrator == "trained" and self.bias_correction:
            raise ValueError(
                "biases that were trained beside rounding are right as they are: leave bias_correction out"
            )
        return self

    @model_validator(mode="after")
    def _precision_is_tensorrts(self) -> Self:
        if self.precision == "int8":
            return self
        if self.runtime != "tensorrt":
            raise ValueError(f"precision: {self.precision} is for runtime: tensorrt; {self.runtime} takes int8")
        if self.calibrator != "minmax" or self.smoothquant is not None:
            option = "smoothquant" if self.smoothquant is not None else f"calibrator: {self.calibrator}"
            raise ValueError(f"{option} is for the even steps of int8: leave it out with precision: {self.precision}")
        return self

    @property
    def floor_db(self) -> float:
        """`min_sqnr_db`, or its default: what was trained to be rounded need not answer alike in float."""
        return self.min_sqnr_db if self.min_sqnr_db is not None else 0.0 if self.calibrator == "trained" else 10.0

    @property
    def target(self) -> Literal["local-cpu"]:
        """Where it is calibrated, judged and timed, which decides what stays float and what comes out."""
        return "local-cpu"

    @property
    def runtime_here(self) -> FileRuntime:
        """What runs it there: TensorRT does not."""
        return "onnxruntime" if self.runtime == "tensorrt" else self.runtime

    @property
    def is_timed(self) -> bool:
        """Whether the fastest of several forms comes out."""
        return self.placement == "fastest" and self.runtime != "tensorrt"


class Compile(OnTarget):
    """ONNX → what the target's runtime loads."""

    stage: Literal["compile"]
    makes: ClassVar[Kind] = "engine"
    version: ClassVar[int] = 2
    model: OnnxRef
    runtime: Literal["onnxruntime"] = "onnxruntime"


class Profile(OnTarget):
    """Latency of a checkpoint, an ONNX file or an engine."""

    stage: Literal["profile"]
    makes: ClassVar[Kind] = "latency"
    model: ModelRef
    batch_size: BatchSize = 1
    threads: Threads = Field(1, description="CPU threads of the runtime")
    precision: Literal["float32", "float16"] = Field("float32", description="float16: torch on local-gpu")
    runtime: FileRuntime | None = Field(None, description="what opens an ONNX file; by default what it was made for")
    boundary: Literal["compute", "end_to_end"] = Field(
        "compute", description="end_to_end adds decoding and preprocessing"
    )
    warmup_s: WarmupSeconds = 0.5
    duration_s: MeasuredSeconds = 3.0
    min_runs: Count = 100


class Check(Stage):
    """What NVIDIA's builder makes of an ONNX file for TensorRT, on this machine and without a GPU.

    Without the extra tensorrt-check it answers by rules and tables alone; the builder is asked once that is installed.
    """

    stage: Literal["check"]
    makes: ClassVar[Kind] = "check"
    version: ClassVar[int] = 3
    model: OnnxRef


class Bundle(Stage):
    """What goes to the device: model, labels, IOSpec, a runner and the hash of each file."""

    stage: Literal["bundle"]
    makes: ClassVar[Kind] = "bundle"
    version: ClassVar[int] = 4
    model: FileModelRef
    support: DatasetRef | None = Field(
        None,
        description="labelled images of each class: with them the bundle can take more classes on the device; needs a "
        "model that was exported with embedding: true",
    )
    unseen: DatasetRef | None = Field(
        None,
        description="labelled images that the model did not learn from, such as DATASET.val: the threshold for unknown "
        "images and the accuracy with added classes are measured on them; needs support",
    )
    unknown: DatasetRef | None = Field(
        None,
        description="images of none of the classes: how many of them are taken for a class is measured; needs support",
    )

    @model_validator(mode="after")
    def _rates_need_support(self) -> Self:
        if self.support is None and (self.unseen or self.unknown):
            raise ValueError("unseen and unknown need support: DATASET.support")
        return self


class Report(Stage):
    """One page that answers whether the budget is met, with everything behind the answer."""

    stage: Literal["report"]
    makes: ClassVar[Kind] = "report"
    version: ClassVar[int] = 6
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
    | Qat
    | Prune
    | Factorize
    | MergeTokens
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
