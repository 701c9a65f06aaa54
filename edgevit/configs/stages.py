"""Stages that make files, measure them and ship them; and the list of all stages."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self, get_args

from pydantic import Field, model_validator

from edgevit.artifacts import Kind
from edgevit.configs.evaluation import Evaluate
from edgevit.configs.fewshot import Fewshot
from edgevit.configs.fields import (
    OPSET,
    AdaptedTo,
    BatchSize,
    CalibratedBy,
    CalibratedByLabels,
    Calibrator,
    CheckpointRef,
    Count,
    Decibels,
    FileModelRef,
    FileRuntime,
    Fraction,
    ImageCount,
    LearnedFrom,
    MeasuredSeconds,
    MeasurementRef,
    ModelRef,
    OnnxRef,
    Opset,
    QuantizedPrecision,
    QuantizedRuntime,
    Seed,
    Share,
    Threads,
    WarmupSeconds,
)
from edgevit.configs.stage import OnTarget, Stage
from edgevit.configs.training import Distill, Load, Qat, Train


class PseudoLabel(Stage):
    """Label images by a teacher, and keep the images with a confident label. Labels of the images are ignored."""

    stage: Literal["pseudo_label"]
    makes: ClassVar[Kind] = "dataset"
    teacher: CheckpointRef
    data: LearnedFrom
    calibration: CalibratedByLabels | None = Field(
        None, description="labelled images that the teacher was not trained on, to fit its temperature"
    )
    threshold: Fraction = Field(0.8, description="least confidence, after calibration")
    balance: bool = Field(
        False, description="no class keeps more images than the median class; the most confident stay"
    )
    most_per_class: ImageCount | None = Field(None, description="most images of a class; the most confident stay")


class Prune(Stage):
    """Remove the least important attention heads, hidden units and blocks. The model has to be trained again.

    Test-time views are dropped, as in training.
    """

    stage: Literal["prune"]
    makes: ClassVar[Kind] = "checkpoint"
    version: ClassVar[int] = 2
    model: CheckpointRef
    keep_macs: Share | None = Field(None, description="largest share of the MACs that stays")
    keep_params: Share | None = Field(None, description="or largest share of the parameters that stays")
    keep_latency: Share | None = Field(
        None, description="or largest share of the latency that stays, measured in ONNX Runtime on this machine"
    )
    threads: Threads = Field(1, description="CPU threads of the runtime during timing")
    structures: Annotated[tuple[Literal["heads", "hidden", "blocks"], ...], Field(min_length=1)] = Field(
        ("heads", "hidden"),
        description="structures that may be removed; blocks are whole residual blocks of plain ViTs",
    )
    score: Literal["taylor", "magnitude"] = Field(
        "taylor", description="importance: the change of the loss on `data`, or the size of the weights"
    )
    data: LearnedFrom | None = Field(None, description="images for taylor; their labels are used, if there are any")
    images: ImageCount = Field(256, description="number of images used")
    seed: Seed = 0

    @model_validator(mode="after")
    def _checks(self) -> Self:
        if [self.keep_macs, self.keep_params, self.keep_latency].count(None) != 2:
            raise ValueError("give one of 'keep_macs', 'keep_params' and 'keep_latency'")
        if self.threads != 1 and self.keep_latency is None:
            raise ValueError("'threads' goes with keep_latency: nothing is timed without it")
        if self.score == "taylor" and self.data is None:
            raise ValueError("taylor needs images: give 'data', or score: magnitude")
        if self.score == "magnitude" and (self.data is not None or "blocks" in self.structures):
            wrong = "data" if self.data is not None else "blocks"
            raise ValueError(f"magnitude ranks heads and hidden units by their weights only: leave out {wrong}")
        return self

    @property
    def cost(self) -> Literal["macs", "params"]:
        """The cost of a unit in the search; MACs for a latency."""
        return "macs" if self.keep_params is None else "params"

    @property
    def keep(self) -> float | None:
        """The share of the cost that stays; None if it is searched for a latency."""
        return self.keep_macs if self.keep_params is None else self.keep_params

    @property
    def target(self) -> Literal["local-cpu"] | None:
        """The target of the timing, which decides the result; None without timing."""
        return None if self.keep_latency is None else "local-cpu"

    @property
    def runtime_here(self) -> FileRuntime:
        """The runtime of the timing."""
        return "onnxruntime"


class Factorize(Stage):
    """Replace linear layers by two thinner ones where that is cheaper, by SVD weighted by the layer's inputs.

    Test-time views are dropped, as in training.
    """

    stage: Literal["factorize"]
    makes: ClassVar[Kind] = "checkpoint"
    version: ClassVar[int] = 2
    model: CheckpointRef
    keep_macs: Share = Field(description="largest share of the MACs that stays")
    data: LearnedFrom = Field(description="images, with labels or without, for the inputs of the layers")
    images: ImageCount = Field(256, description="number of images used")
    seed: Seed = 0


class MergeTokens(Stage):
    """Let a plain ViT merge similar tokens from block to block (ToMe), with or without further training."""

    stage: Literal["merge_tokens"]
    makes: ClassVar[Kind] = "checkpoint"
    version: ClassVar[int] = 2
    model: CheckpointRef
    per_block: Count = Field(description="pairs of patch tokens that are merged in each block")


class Export(Stage):
    """Checkpoint → ONNX."""

    stage: Literal["export"]
    makes: ClassVar[Kind] = "onnx"
    version: ClassVar[int] = 4
    model: CheckpointRef
    opset: Opset = OPSET
    runtime: FileRuntime = Field("onnxruntime", description="the runtime of the file on this machine")
    dynamic_batch: bool = True
    precision: Literal["float32", "float16"] = Field(
        "float32",
        description="float16, for TensorRT: all tensors but inputs, outputs, and those beyond float16's range on "
        "random pictures; quantize needs float32",
    )
    normalize: bool = Field(
        False,
        description="scale and normalize inside the graph, whose input is the resized picture, uint8 (N, H, W, 3)",
    )
    embedding: bool = Field(
        False, description="a second output, the input of the classifier, so that classes can be added to the bundle"
    )


class Quantize(Stage):
    """ONNX → ONNX with Q/DQ, calibrated on images (post-training quantization): INT8, or FP8 or INT4 for TensorRT.

    With placement: fastest the result is the float model if no form is faster. For tensorrt nothing is timed.
    """

    stage: Literal["quantize"]
    makes: ClassVar[Kind] = "onnx"
    version: ClassVar[int] = 5
    model: OnnxRef
    calibration: CalibratedBy
    calibration_images: ImageCount = Field(256, description="number of calibration images used")
    calibrator: Literal[Calibrator, "trained"] = Field(
        "minmax",
        description="trained: the ranges of a qat stage, which the export carries; tensors without a trained range are "
        "calibrated by minmax",
    )
    smoothquant: Fraction | None = Field(
        None, description="SmoothQuant strength α, 0 to 1; 0.5 is usual; off by default"
    )
    bias_correction: bool = Field(
        False,
        description="correct biases so that each channel of an integer layer keeps its mean in float; takes minutes, "
        "and helps most with depthwise convolutions",
    )
    runtime: QuantizedRuntime = Field(
        "onnxruntime", description="the runtime of the quantized graph; for tensorrt the layers in float are float16"
    )
    precision: QuantizedPrecision = Field(
        "int8",
        description="float8 and int4 are for tensorrt. float8: weights and activations in E4M3, for Ada, Hopper, "
        "Blackwell and Jetson Thor, not for Orin (Ampere). int4: only weights of products (MatMul, Gemm), with a "
        "scale for each 64 inputs, for the smallest file; activations stay float16. int4 needs a parser of opset 21, "
        "which JetPack 6 lacks",
    )
    placement: Literal["fastest", "all", "dense", "products"] = Field(
        "fastest",
        description="layers to quantize: all that the runtime can; dense: without grouped convolutions; products: "
        "MatMul and Gemm only; fastest: the fastest of these, timed in turns with the float model on this machine, or "
        "the float model if none is faster (for tensorrt, which does not run here: all)",
    )
    threads: Threads = Field(1, description="CPU threads of the runtime during timing")
    min_sqnr_db: Decibels | None = Field(
        None,
        description="parity gate: least signal-to-quantization-noise ratio of the logits, in dB; if the model is below "
        "it, the most sensitive layers stay float; 10 by default, and 0 with calibrator: trained",
    )
    sensitivity: bool = Field(
        False,
        description="measure the closeness to float with each layer alone quantized, even if the gate does not need it",
    )
    seed: Seed = 0

    @model_validator(mode="after")
    def _ranges_belong_to_the_weights(self) -> Self:
        if self.calibrator == "trained" and self.smoothquant is not None:
            raise ValueError("smoothquant changes the tensors of the trained ranges: leave it out, or calibrate anew")
        if self.calibrator == "trained" and self.bias_correction:
            raise ValueError("biases from quantization-aware training need no correction: leave bias_correction out")
        return self

    @model_validator(mode="after")
    def _precision_is_tensorrts(self) -> Self:
        if self.precision == "int8":
            return self
        if self.runtime != "tensorrt":
            raise ValueError(f"precision: {self.precision} is for runtime: tensorrt; {self.runtime} takes int8")
        if self.calibrator != "minmax" or self.smoothquant is not None:
            option = "smoothquant" if self.smoothquant is not None else f"calibrator: {self.calibrator}"
            raise ValueError(f"{option} is for int8: leave it out with precision: {self.precision}")
        return self

    @property
    def floor_db(self) -> float:
        """`min_sqnr_db`, or its default. A model from quantization-aware training may differ more from float."""
        return self.min_sqnr_db if self.min_sqnr_db is not None else 0.0 if self.calibrator == "trained" else 10.0

    @property
    def target(self) -> Literal["local-cpu"]:
        """The target of calibration, gate and timing, which decides the result."""
        return "local-cpu"

    @property
    def runtime_here(self) -> FileRuntime:
        """The runtime of gate and timing on this machine, where TensorRT does not run."""
        return "onnxruntime" if self.runtime == "tensorrt" else self.runtime

    @property
    def is_timed(self) -> bool:
        """Whether the result is the fastest of several forms."""
        return self.placement == "fastest" and self.runtime != "tensorrt"


class Compile(OnTarget):
    """ONNX → a file for the runtime of the target."""

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
    runtime: FileRuntime | None = Field(None, description="runtime of an ONNX file; by default the one it was made for")
    boundary: Literal["compute", "end_to_end"] = Field(
        "compute", description="end_to_end adds decoding and preprocessing"
    )
    warmup_s: WarmupSeconds = 0.5
    duration_s: MeasuredSeconds = 3.0
    min_runs: Count = 100


class Check(Stage):
    """Check an ONNX file for TensorRT with NVIDIA's builder, on this machine and without a GPU.

    Without the extra tensorrt-check the check uses rules and tables only.
    """

    stage: Literal["check"]
    makes: ClassVar[Kind] = "check"
    version: ClassVar[int] = 3
    model: OnnxRef


class Bundle(Stage):
    """The folder for the device: model, labels, IOSpec, a runner and the hash of each file."""

    stage: Literal["bundle"]
    makes: ClassVar[Kind] = "bundle"
    version: ClassVar[int] = 4
    model: FileModelRef
    support: AdaptedTo | None = Field(
        None,
        description="labelled images of each class, so that classes can be added on the device; needs a model that was "
        "exported with embedding: true",
    )
    unseen: CalibratedByLabels | None = Field(
        None,
        description="labelled images that the model did not learn from, such as DATASET.val, to measure the threshold "
        "for unknown images and the accuracy; needs support",
    )
    unknown: CalibratedBy | None = Field(
        None,
        description="images of none of the classes, to measure how many of them are accepted; needs support",
    )

    @model_validator(mode="after")
    def _rates_need_support(self) -> Self:
        if self.support is None and (self.unseen or self.unknown):
            raise ValueError("unseen and unknown need support: DATASET.support")
        return self


class Report(Stage):
    """A page with the verdict on the budget and the measurements behind it."""

    stage: Literal["report"]
    makes: ClassVar[Kind] = "report"
    version: ClassVar[int] = 6
    reads_budget: ClassVar[bool] = True
    reads_names: ClassVar[bool] = True
    of: tuple[MeasurementRef, ...] = Field(
        min_length=1, description="evaluations, latencies and checks, by id or by a pattern such as latency/*"
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
