"""Stages that make files, measure them and ship them; and the list of all stages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import Field, model_validator

from edgevit.artifacts import Kind
from edgevit.configs.evaluation import Evaluate
from edgevit.configs.fewshot import Fewshot
from edgevit.configs.fields import (
    OPSET,
    RANGE_OF_TENSORRT,
    AdaptedTo,
    Added,
    AnswersComparedOn,
    BatchSize,
    BuildCount,
    BuilderLevel,
    CalibratedBy,
    CalibratedByLabels,
    Calibrator,
    CheckpointRef,
    Count,
    Decibels,
    FileModelRef,
    Fraction,
    FrameRate,
    ImageCount,
    LearnedFrom,
    LookedAt,
    Loss,
    MeasuredSeconds,
    MeasurementRef,
    ModelRef,
    OnnxRef,
    Opset,
    Positive,
    QuantizedPrecision,
    ReadsKnownFiles,
    Seed,
    Share,
    StartCount,
    Threads,
    WarmupSeconds,
    references,
)
from edgevit.configs.pretrain import Pretrain
from edgevit.configs.runtimes import FileRuntime, QuantizedRuntime
from edgevit.configs.stage import OnTarget, Stage
from edgevit.configs.targets import LOCAL_CPU, LOCAL_GPU, TargetName
from edgevit.configs.training import Distill, Load, Qat, Train

TOP1_DROP = 0.01  # the default of max_top1_drop without a budget
MIN_SQNR_DB = 18.0  # the default of min_sqnr_db: see the forms of quantization_gate.json in benchmarks/results


class PseudoLabel(Stage):
    """Label images with a teacher, and keep the labels that it is sure of. Labels that the images have are ignored."""

    stage: Literal["pseudo_label"]
    makes: ClassVar[Kind] = "dataset"
    teacher: CheckpointRef = Field(description="Model that labels the images.")
    data: LearnedFrom = Field(description="Images to label.")
    calibration: CalibratedByLabels | None = Field(
        None,
        description="Labelled images that the teacher was not trained on. The teacher's temperature is fitted to them.",
    )
    threshold: Fraction = Field(0.8, description="Least confidence of a label that is kept, after calibration.")
    balance: bool = Field(
        False, description="Whether no class keeps more images than the median class. The surest images stay."
    )
    most_per_class: ImageCount | None = Field(
        None, description="Largest number of images that a class keeps. The surest images stay."
    )


class Prune(Stage):
    """Remove the attention heads, hidden units and blocks that matter least. Train the model again afterwards.

    Test-time views are dropped, as in training.
    """

    stage: Literal["prune"]
    makes: ClassVar[Kind] = "checkpoint"
    version: ClassVar[int] = 2
    model: CheckpointRef = Field(description="Model to prune.")
    keep_macs: Share | None = Field(None, description="Largest share of the multiply-accumulates that stays.")
    keep_params: Share | None = Field(None, description="Largest share of the parameters that stays.")
    keep_latency: Share | None = Field(
        None, description="Largest share of the latency that stays, measured in `runtime` on `target`."
    )
    runtime: Annotated[Literal["onnxruntime", "tensorrt"], Added()] = Field(
        "onnxruntime",
        description="Runtime in which the models are timed. For `tensorrt`, engines are built from the models in "
        "float16, compared with the ONNX files and timed on `target`, with the defaults of `compile`.",
    )
    target: Annotated[TargetName, Added()] = Field(LOCAL_CPU, description="Device that times the models.")
    threads: Threads = Field(1, description="Number of CPU threads of the runtime while it is timed.")
    structures: Annotated[tuple[Literal["heads", "hidden", "blocks"], ...], Field(min_length=1)] = Field(
        ("heads", "hidden"),
        description="Structures that may go: attention heads, hidden units, or whole residual blocks of plain ViTs.",
    )
    score: Literal["taylor", "magnitude"] = Field(
        "taylor", description="Importance of a structure: the change of the loss on `data`, or the size of the weights."
    )
    data: LearnedFrom | None = Field(None, description="Images for `score: taylor`. Labels are used if there are any.")
    images: ImageCount = Field(256, description="Largest number of images that are used.")
    seed: Seed = Field(0, description="Seed of the choice of images.")

    @model_validator(mode="after")
    def _checks(self) -> Self:
        if [self.keep_macs, self.keep_params, self.keep_latency].count(None) != 2:
            raise ValueError("give one of 'keep_macs', 'keep_params' and 'keep_latency'")
        wrong = next((name for name in ("threads", "target", "runtime") if self._is_changed(name)), None)
        if self.keep_latency is None and wrong:
            raise ValueError(f"'{wrong}' goes with keep_latency: nothing is timed without it")
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

    def runs_on(self) -> tuple[str, ...]:
        return () if self.keep_latency is None else (self.target,)

    def runtime_on(self, target: str) -> str | None:
        """The runtime of the timing."""
        return self.runtime

    def _is_changed(self, name: str) -> bool:
        """Whether an option has another value than its default."""
        return bool(getattr(self, name) != type(self).model_fields[name].default)


class Factorize(Stage):
    """Replace a linear layer by two thin ones if that is cheaper, by an SVD weighted with the inputs of the layer.

    Test-time views are dropped, as in training.
    """

    stage: Literal["factorize"]
    makes: ClassVar[Kind] = "checkpoint"
    version: ClassVar[int] = 3
    model: CheckpointRef = Field(description="Model to factorize.")
    keep_macs: Share = Field(description="Largest share of the multiply-accumulates that stays.")
    data: LearnedFrom = Field(description="Images, with or without labels, that give the inputs of the layers.")
    images: ImageCount = Field(256, description="Largest number of images that are used.")
    seed: Seed = Field(0, description="Seed of the choice of images.")


class MergeTokens(Stage):
    """Let a plain ViT merge similar tokens in each block (ToMe). Train it again afterwards, or use it as it is."""

    stage: Literal["merge_tokens"]
    makes: ClassVar[Kind] = "checkpoint"
    version: ClassVar[int] = 2
    model: CheckpointRef = Field(description="Plain ViT whose tokens are merged.")
    per_block: Count = Field(description="Number of pairs of patch tokens that become one token in each block.")


class Export(Stage):
    """Write a checkpoint as an ONNX file, and compare the file with the checkpoint."""

    stage: Literal["export"]
    makes: ClassVar[Kind] = "onnx"
    version: ClassVar[int] = 5
    model: CheckpointRef = Field(description="Model to export.")
    opset: Opset = Field(OPSET, description="ONNX opset of the file.")
    runtime: FileRuntime = Field("onnxruntime", description="Runtime that opens the file on this machine.")
    dynamic_batch: bool = Field(
        True, description="Whether the file takes any batch size. With false, it takes one image at a time."
    )
    precision: Literal["float32", "float16"] = Field(
        "float32",
        description="Precision of the file. float16 is for TensorRT: inputs, outputs and tensors that leave float16's "
        "range on random images stay float32. `quantize` takes float32.",
    )
    normalize: bool = Field(
        False,
        description="Whether the graph scales and normalizes. Its input is then the resized image, uint8 (N, H, W, 3).",
    )
    embedding: bool = Field(
        False,
        description="Whether the file has a second output, the input of the classifier. Classes can then be added to "
        "its bundle.",
    )


class Quantize(Stage):
    """Quantize an ONNX file after training, calibrated on images: to INT8, or to FP8 or INT4 for TensorRT.

    With `placement: fastest`, the forms are timed. If none is faster than the float model, the result is the float
    model, unless it exceeds `size_mib` and a form does not. For TensorRT, float16 takes the place of float, and the
    forms are timed on a board.
    """

    stage: Literal["quantize"]
    makes: ClassVar[Kind] = "onnx"
    version: ClassVar[int] = 12
    model: OnnxRef = Field(description="ONNX file to quantize, in float32.")
    calibration: CalibratedBy = Field(description="Images that give the ranges of activations. Labels are not used.")
    calibration_images: ImageCount = Field(256, description="Largest number of calibration images that are used.")
    calibrator: Literal[Calibrator, "trained"] = Field(
        "minmax",
        description="Rule that turns observed values into a range. `trained` takes the ranges of a `qat` stage, which "
        "the export carries, and `minmax` for tensors without one; no layer stays float then.",
    )
    smoothquant: Fraction | None = Field(
        None,
        description="SmoothQuant strength α, for int8; 0.5 is usual, and 0 turns it off. By default, 0.5 is tried if a "
        "channel of a layer norm is 8 times as large as the median channel, and used if the SQNR rises by 0.5 dB.",
    )
    bias_correction: bool = Field(
        False,
        description="Whether biases change so that each channel of an integer layer keeps its mean in float. It takes "
        "minutes, and helps depthwise convolutions most.",
    )
    runtime: QuantizedRuntime = Field(
        "onnxruntime",
        description="Runtime that the graph is written for. For `tensorrt`, float tensors are float16.",
    )
    reduce_range: Annotated[bool | None, Added()] = Field(
        None,
        description="Whether int8 weights have 7 bits in place of 8. On x86 CPUs without VNNI, products of 8 bits "
        "overflow. By default, it is tried on this machine and on `target`: 7 bits where they overflow.",
    )
    precision: QuantizedPrecision = Field(
        "int8",
        description="Precision of quantized tensors. `float8` and `int4` are for TensorRT. `float8`: weights and "
        "activations in E4M3, for Ada, Hopper, Blackwell and Jetson Thor; Orin (Ampere) has none. `int4`: only the "
        "weights of products (MatMul, Gemm), with a scale for each 64 inputs; activations stay float16. `int4` needs "
        "a parser of opset 21, which JetPack 6 does not have.",
    )
    placement: Literal["fastest", "all", "sigmoid", "dense", "products"] = Field(
        "fastest",
        description="Operators that become integers. `all`: every product and convolution that the runtime can "
        "quantize. `sigmoid`: as `all`, and Sigmoid behind convolutions, as in SiLU; for ONNX Runtime. `dense`: as "
        "`all`, without grouped convolutions. `products`: only MatMul and Gemm. `fastest`: each of these forms is "
        "timed in turns with the float model on `target`, and the fastest ships. If none is faster, the float model "
        "ships (but see `size_mib`). "
        "For TensorRT, engines of the forms are built, compared with float and timed on `target`: float16, the "
        "integer forms and, where the GPU has it, FP8. These engines are built with the defaults of `compile`. On "
        "`local-cpu`, `fastest` then means `all`.",
    )
    target: Annotated[TargetName, Added()] = Field(
        LOCAL_CPU, description="Device that times the forms, with `placement: fastest`."
    )
    size_mib: Annotated[Positive | None, Added()] = Field(
        None,
        description="Largest size of the model file in MiB, or of the engine on a board, with `placement: fastest`. If "
        "the float model is larger, and a form that is not passes the gates, that form ships, even if it is slower. By "
        "default, that of the recipe's budget, unless a later stage makes another model from this one.",
    )
    threads: Threads = Field(1, description="Number of CPU threads of the runtime while it is timed.")
    min_sqnr_db: Decibels | None = Field(
        None,
        description="Least signal-to-quantization-noise ratio of the logits in decibels. If the model would be below "
        "it, the layers with the most noise for each weight stay float. 18 by default; 0 with `calibrator: trained`.",
    )
    validation: Annotated[AnswersComparedOn | None, Added()] = Field(
        None,
        description="Images on which each form's answers are compared with the float model's; at most 2,000, drawn by "
        "`seed`. Images that the calibration uses are left out, unless none remains. With labels, a form that loses "
        "more than `max_top1_drop` is refused. Without labels, the share of changed answers is reported, and no form "
        "is refused by it.",
    )
    max_top1_drop: Annotated[Loss | None, Added()] = Field(
        None,
        description="Largest loss of top-1 against the float model on `validation`, which needs labels, as a fraction. "
        "A form is refused if its loss is larger and the 95% interval of the loss lies above 0. The layers with the "
        "most noise for each weight then stay float, until the measured loss is within the limit. By default "
        "`budget.top1_drop` of the recipe, or 0.01 without it.",
    )
    sensitivity: bool = Field(
        False, description="Whether the cost of each layer alone is measured, even if both gates are passed without."
    )
    seed: Seed = Field(0, description="Seed of the choice of calibration images.")

    @model_validator(mode="after")
    def _ranges_belong_to_the_weights(self) -> Self:
        if self.calibrator == "trained" and self.smoothquant:
            raise ValueError("smoothquant changes the tensors of the trained ranges: leave it out, or calibrate anew")
        if self.calibrator == "trained" and self.bias_correction:
            raise ValueError("biases from quantization-aware training need no correction: leave bias_correction out")
        return self

    @model_validator(mode="after")
    def _limit_has_images(self) -> Self:
        if self.max_top1_drop is not None and self.validation is None:
            raise ValueError("max_top1_drop is measured on labelled images: give them as 'validation'")
        return self

    @model_validator(mode="after")
    def _target_times(self) -> Self:
        if self.target != LOCAL_CPU and self.placement != "fastest":
            raise ValueError("'target' goes with placement: fastest: nothing else is timed")
        if self.size_mib is not None and not self.is_timed:
            raise ValueError(
                "'size_mib' decides between forms that are timed: with placement: fastest, and for tensorrt on a board"
            )
        return self

    @model_validator(mode="after")
    def _range_is_reduced_for_cpus(self) -> Self:
        if self.reduce_range and self.runtime == "tensorrt":
            raise ValueError(RANGE_OF_TENSORRT)
        return self

    @model_validator(mode="after")
    def _sigmoid_is_onnxruntimes(self) -> Self:
        if self.placement == "sigmoid" and self.runtime != "onnxruntime":
            raise ValueError("placement: sigmoid is for runtime: onnxruntime; take all")
        return self

    @model_validator(mode="after")
    def _precision_is_tensorrts(self) -> Self:
        if self.precision == "int8":
            return self
        if self.runtime != "tensorrt":
            raise ValueError(f"precision: {self.precision} is for runtime: tensorrt; {self.runtime} takes int8")
        if self.calibrator != "minmax" or self.smoothquant:
            option = "smoothquant" if self.smoothquant else f"calibrator: {self.calibrator}"
            raise ValueError(f"{option} is for int8: leave it out with precision: {self.precision}")
        return self

    @property
    def floor_db(self) -> float:
        """`min_sqnr_db`, or its default. A model from quantization-aware training may differ more from float."""
        if self.min_sqnr_db is not None:
            return self.min_sqnr_db
        return 0.0 if self.calibrator == "trained" else MIN_SQNR_DB

    @property
    def smooths_outliers(self) -> bool:
        """Whether SmoothQuant is tried if a layer norm has outlier channels: in INT8, unless ranges were trained."""
        return self.smoothquant is None and self.precision == "int8" and self.calibrator != "trained"

    @property
    def most_bytes(self) -> float | None:
        """`size_mib` in bytes."""
        return None if self.size_mib is None else self.size_mib * 2**20

    @property
    def largest_top1_drop(self) -> float:
        """`max_top1_drop`, or its default outside a recipe with a limit in its budget."""
        return TOP1_DROP if self.max_top1_drop is None else self.max_top1_drop

    def runs_on(self) -> tuple[str, ...]:
        """This machine calibrates and compares with float; the target times."""
        timed_on = self.target if self.is_timed else LOCAL_CPU
        return tuple(dict.fromkeys((LOCAL_CPU, timed_on)))

    @property
    def runtime_here(self) -> FileRuntime:
        """The runtime of gate and timing on this machine, where TensorRT does not run."""
        return "onnxruntime" if self.runtime == "tensorrt" else self.runtime

    def runtime_on(self, target: str) -> str | None:
        """The runtime of the forms; on this machine's CPU, that of the gate."""
        return self.runtime_here if target == LOCAL_CPU else self.runtime

    @property
    def is_timed(self) -> bool:
        """Whether the result is the fastest of several forms."""
        return self.placement == "fastest" and (self.runtime != "tensorrt" or self.target != LOCAL_CPU)


TENSORRT_OPTIONS = (
    "batch_size",
    "max_batch",
    "builder_level",
    "workspace_mib",
    "builds",
    "version_compatible",
    "timing_cache",
)  # of compile


class Compile(OnTarget):
    """Compile an ONNX file for the runtime of the target, and compare the result with the file."""

    stage: Literal["compile"]
    makes: ClassVar[Kind] = "engine"
    version: ClassVar[int] = 2
    model: OnnxRef = Field(description="ONNX file to compile.")
    runtime: Literal["onnxruntime", "tensorrt"] = Field(
        "onnxruntime",
        description="Runtime that loads the compiled model. `tensorrt` builds an engine with the TensorRT of "
        "`local-gpu`, or of a machine of targets.yaml.",
    )
    batch_size: Annotated[BatchSize, Added()] = Field(
        1, description="Number of images in a batch that a TensorRT engine is tuned for."
    )
    max_batch: Annotated[BatchSize, Added()] = Field(
        32, description="Largest number of images in a batch that a TensorRT engine takes."
    )
    builder_level: Annotated[BuilderLevel, Added()] = Field(
        3, description="Effort of TensorRT's builder, 0 to 5. A higher level builds longer."
    )
    workspace_mib: Annotated[Count | None, Added()] = Field(
        None, description="Most memory that a kernel of TensorRT may use, in MiB. By default, all of the GPU's."
    )
    builds: Annotated[BuildCount, Added()] = Field(
        1,
        description="Number of times that TensorRT builds the engine. Each engine is timed, and the fastest right one "
        "is kept. Several builds use no timing cache.",
    )
    version_compatible: Annotated[bool, Added()] = Field(
        False,
        description="Let later versions of TensorRT of the same major version run the engine. NVIDIA says that such an "
        "engine can be slower.",
    )
    timing_cache: Annotated[bool, Added()] = Field(
        True,
        description="Reuse the times of kernels that earlier builds of TensorRT have measured on the device.",
    )

    def runtime_on(self, target: str) -> str | None:
        """The runtime of the compiled model."""
        return self.runtime

    @model_validator(mode="after")
    def _options_of_tensorrt(self) -> Self:
        ours = {name for name in TENSORRT_OPTIONS if name in self.model_fields_set}
        if self.runtime != "tensorrt" and ours:
            raise ValueError(f"{', '.join(sorted(ours))}: only with runtime: tensorrt")
        if self.batch_size > self.max_batch:
            raise ValueError(f"max_batch ({self.max_batch}) is at least batch_size ({self.batch_size})")
        return self

    @model_validator(mode="after")
    def _has_a_compiled_file(self) -> Self:
        if self.target == LOCAL_GPU and self.runtime == "onnxruntime":
            raise ValueError(
                f"ONNX Runtime has no compiled file for a GPU ({LOCAL_GPU}): no compile, or runtime: tensorrt"
            )
        return self


# LoadGen's single stream (MLPerf inference 2.0 and later), as options of profile
LIKE_MLPERF: Mapping[str, Any] = {"duration_s": 600.0, "min_runs": 64, "starts": 1}


class Profile(OnTarget):
    """Measure the latency of a checkpoint, an ONNX file or a compiled model."""

    stage: Literal["profile"]
    makes: ClassVar[Kind] = "latency"
    version: ClassVar[int] = 4
    model: ModelRef = Field(description="Model to time.")
    scenario: Annotated[Literal["single_stream", "offline", "fixed_rate"], Added()] = Field(
        "single_stream",
        description="What is measured, by MLPerf's names. `single_stream`: the latency, one batch after another. "
        "`offline`: also the throughput with each of `batch_sizes`. `fixed_rate`: also a stream of frames that arrive "
        "`rate_hz` times a second, whose latency counts from their arrival.",
    )
    batch_sizes: Annotated[tuple[BatchSize, ...], Added()] = Field(
        (), description="Batch sizes of `offline`, from the smallest on. The latency is that of the first."
    )
    rate_hz: Annotated[FrameRate | None, Added()] = Field(
        None, description="Frames a second of `fixed_rate`. A frame has `batch_size` images."
    )
    like: Annotated[Literal["mlperf"] | None, Added()] = Field(
        None,
        description="Rules to follow. `mlperf`: those of LoadGen's single stream, which are one start, 600 s and at "
        "least 64 queries of one image; the result is p90 by early stopping.",
    )
    batch_size: BatchSize = Field(1, description="Number of images in a batch.")
    threads: Threads = Field(1, description="Number of CPU threads of the runtime.")
    precision: Literal["float32", "float16"] = Field(
        "float32", description="Precision of a checkpoint. float16 needs `target: local-gpu`."
    )
    runtime: FileRuntime | None = Field(
        None, description="Runtime that opens an ONNX file. By default, the runtime that the file was made for."
    )
    boundary: Literal["compute", "end_to_end"] = Field(
        "compute", description="Work that is timed: the model alone, or decoding and preprocessing too."
    )
    warmup_s: WarmupSeconds = Field(0.5, description="Least time of the warm-up in seconds. Its runs are not counted.")
    most_warmup_s: Annotated[WarmupSeconds, Added()] = Field(
        10.0, description="Longest warm-up in seconds. It ends when the latest runs are steady. 0: no test."
    )
    duration_s: MeasuredSeconds = Field(3.0, description="Time of the measurement in seconds, over all starts.")
    min_runs: Count = Field(100, description="Least number of runs. The measurement goes on until there are as many.")
    starts: Annotated[StartCount, Added()] = Field(
        5,
        description="Number of times that the model is started anew. Time and runs are divided among the starts. The "
        "intervals hold what varies between starts; with 1, they hold for that start alone.",
    )
    soak_s: Annotated[MeasuredSeconds | None, Added()] = Field(
        None,
        description="Longest time in seconds for which the model runs before the warm-up, until the temperature "
        "changes by less than 0.5 °C a minute. By default, there is no soak.",
    )
    retry_s: Annotated[WarmupSeconds, Added()] = Field(
        20.0,
        description="Time in seconds for which a disturbed measurement is repeated. If the last one is disturbed too, "
        "the latency is invalid.",
    )
    idle_s: Annotated[WarmupSeconds, Added()] = Field(
        3.0,
        description="Time in seconds for which the machine rests before the runs, where it tells its power. The energy "
        "for an image is that above rest. 0: energy is not measured.",
    )

    layers: Annotated[bool, Added()] = Field(
        False,
        description="Also time each layer in the runtime's profiler, after the latency. The report shows the times by "
        "part of the model, and the roofline. ONNX Runtime over SSH and local-gpu do not tell them.",
    )

    @model_validator(mode="before")
    @classmethod
    def _rules_of_loadgen(cls, fields: Any) -> Any:
        is_like = isinstance(fields, Mapping) and fields.get("like") == "mlperf"
        return {**LIKE_MLPERF, **fields} if is_like else fields

    @model_validator(mode="after")
    def _scenario_has_its_options(self) -> Self:
        if bool(self.batch_sizes) != (self.scenario == "offline"):
            raise ValueError("batch_sizes and scenario: offline go together")
        if (self.rate_hz is not None) != (self.scenario == "fixed_rate"):
            raise ValueError("rate_hz and scenario: fixed_rate go together")
        if self.batch_sizes and "batch_size" in self.model_fields_set:
            raise ValueError("batch_sizes stands in place of batch_size: leave batch_size out")
        if list(self.batch_sizes) != sorted(set(self.batch_sizes)):
            raise ValueError("batch_sizes begins with the smallest, and names each size once")
        if self.like and (self.scenario != "single_stream" or self.batch_size != 1):
            raise ValueError("like: mlperf follows the rules of the single stream, with one image at a time")
        return self

    @property
    def latency_batch(self) -> int:
        """The batch size of the latency."""
        return self.batch_sizes[0] if self.batch_sizes else self.batch_size

    def runtime_on(self, target: str) -> str | None:
        """The runtime that opens the model, if the stage names it."""
        return self.runtime


class Select(OnTarget):
    """Take the most accurate of several models that meets a budget on a target.

    Each model is evaluated on `data`, and all are timed in turns on `target`. A model meets `latency_ms` if the upper
    bound of its p50 does. The most accurate of these models is taken, unless another one is shown to be faster and to
    lose at most `max_top1_drop` on the same images. The result is the model that is taken. If no model meets the
    budget, the run ends, and says which budget could be met.
    """

    stage: Literal["select"]
    makes: ClassVar[Kind | None] = None
    version: ClassVar[int] = 2
    models: tuple[ModelRef, ...] = Field(
        min_length=1,
        description="Models of one kind to choose from, at least two. A pattern such as `onnx/*` names several stages.",
    )
    data: AnswersComparedOn = Field(
        description="Labelled images that the models did not learn from, such as `DATASET.val`. Test images are "
        "refused: the accuracy of the chosen model would be too high on them."
    )
    latency_ms: Positive | None = Field(
        None,
        description="Largest p50 latency in milliseconds. By default, that of the recipe's budget, unless a later "
        "stage makes another model from the selected one: the budget is that of the deployed file.",
    )
    size_mib: Positive | None = Field(
        None, description="Largest size of the model file in MiB. By default, as for `latency_ms`."
    )
    max_top1_drop: Loss | None = Field(
        None,
        description="Largest loss of top-1 against the most accurate model, as a fraction, with which a faster model "
        "is taken. By default, that of the recipe's budget; with neither, the most accurate model is taken.",
    )
    batch_size: BatchSize = Field(1, description="Number of images in a batch, while the models are timed.")
    threads: Threads = Field(1, description="Number of CPU threads of the runtime, while the models are timed.")
    duration_s: MeasuredSeconds = Field(1.0, description="Time of the measurement of each model in seconds.")

    def kind(self, kinds: Mapping[str, Kind]) -> Kind:
        return next((kinds[name] for name in self.models if name in kinds), "onnx")


def models_of(stage: Stage) -> tuple[str, ...]:
    """The ids of the models that a stage runs, changes or ships: its model, or each model of a selection."""
    return tuple(name for path, name, _ in references(stage) if path[0] in ("model", "models"))


def makers_of(model: str, stages: Mapping[str, Stage], through: tuple[type[Stage], ...] = (Select,)) -> Iterator[Stage]:
    """The stages that make a model.

    Args:
        stages: by id.
        through: of stages of these kinds, the makers of the models that they read are given in their place.
    """
    maker = stages.get(model)
    if isinstance(maker, through):
        for source in models_of(maker):
            yield from makers_of(source, stages, through)
    elif maker is not None:
        yield maker


class Check(Stage):
    """Ask NVIDIA's builder whether TensorRT takes an ONNX file and in which precision it runs, without a GPU.

    Without the extra tensorrt-check, rules and tables answer alone. The builder is asked once the extra is installed.
    """

    stage: Literal["check"]
    makes: ClassVar[Kind] = "check"
    version: ClassVar[int] = 4
    model: OnnxRef = Field(description="ONNX file to check.")


class Attention(Stage):
    """Show where a checkpoint looks: attention maps, mean attention distances, position embeddings and first filters.

    The report shows the models of several such stages on the same images beside each other.
    """

    stage: Literal["attention"]
    makes: ClassVar[Kind] = "attention"
    reads_test_images: ClassVar[bool] = True
    model: CheckpointRef = Field(description="Model whose attention is shown.")
    data: LookedAt = Field(description="Images that the model looks at. Labels are not used.")
    images: ImageCount = Field(
        64,
        description="Largest number of images that distances are averaged over. Hashes of their ids choose them. The "
        "first six are shown.",
    )
    seed: Seed = Field(0, description="Seed of the choice of images.")


class Bundle(Stage):
    """Pack a model for the device: model, labels, IOSpec, a runner and the hash of each file."""

    stage: Literal["bundle"]
    makes: ClassVar[Kind] = "bundle"
    version: ClassVar[int] = 9
    model: FileModelRef = Field(
        description="Model to ship. Of a compiled model, the ONNX file that it was compiled from is shipped."
    )
    compiled: Annotated[bool, Added()] = Field(
        False,
        description="Ship the compiled model itself. It runs on machines like the one that compiled it, with the same "
        "version of the runtime. A TensorRT engine is shipped with its ONNX file.",
    )
    web: Annotated[bool, Added()] = Field(
        False,
        description="Add a page, index.html, that labels images in a browser: from files or the camera, in ONNX "
        "Runtime Web. Not with `support`: the page knows only the model's own classes.",
    )
    web_runtime: Annotated[str | None, ReadsKnownFiles(), Added()] = Field(
        None,
        description="Folder with the files of ONNX Runtime Web. By default, npm gets its package. Needs `web: true`.",
    )
    serve: Annotated[tuple[Literal["systemd", "triton", "deepstream", "cpp"], ...], Added()] = Field(
        (),
        description="Add files that serve the model in other programs: a unit of systemd, a configuration of the "
        "Triton Inference Server or of DeepStream (for a TensorRT engine), programs in C++.",
    )
    support: AdaptedTo | None = Field(
        None,
        description="Labelled images of each class. The bundle can then take more classes on the device. The model "
        "must have been exported with `embedding: true`.",
    )
    unseen: CalibratedByLabels | None = Field(
        None,
        description="Labelled images that the model did not learn from, such as `DATASET.val`. The threshold for "
        "unknown images and the accuracy with added classes are measured on them. Needs `support`.",
    )
    unknown: CalibratedBy | None = Field(
        None,
        description="Images of none of the classes. The share of them that is taken for a class is measured. Needs "
        "`support`.",
    )

    @model_validator(mode="after")
    def _rates_need_support(self) -> Self:
        if self.support is None and (self.unseen or self.unknown):
            raise ValueError("unseen and unknown need support: DATASET.support")
        return self

    @model_validator(mode="after")
    def _page_fits(self) -> Self:
        if self.web and self.support:
            raise ValueError(
                "web and support do not go together: the page does not know added classes; make two bundles"
            )
        if self.web and self.compiled:
            raise ValueError("web and compiled do not go together: a browser cannot load a compiled model")
        if self.web_runtime is not None and not self.web:
            raise ValueError("web_runtime needs web: true")
        return self

    @model_validator(mode="after")
    def _deepstream_needs_an_engine(self) -> Self:
        if "deepstream" in self.serve and not self.compiled:
            raise ValueError("deepstream runs TensorRT engines: it needs compiled: true, with an engine")
        return self


class Report(Stage):
    """Write a page that says whether the budget is met, with the measurements behind the answer."""

    stage: Literal["report"]
    makes: ClassVar[Kind] = "report"
    version: ClassVar[int] = 9
    reads_budget: ClassVar[bool] = True
    reads_names: ClassVar[bool] = True
    of: tuple[MeasurementRef, ...] = Field(
        min_length=1,
        description="Evaluations, latencies, checks and attention to report. A pattern such as `latency/*` names "
        "several stages.",
    )
    deployed: ModelRef | None = Field(
        None,
        description="Model that the budget is judged by; one of those measured in `of`. By default, the most derived "
        "model with accuracy and latency: a compiled model before an ONNX file, an ONNX file before a checkpoint, and "
        "of equals the last. Teachers, models made from teachers and nearest centroid classifiers come after the "
        "others.",
    )


StageConfig = Annotated[
    Load
    | Pretrain
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
    | Select
    | Check
    | Attention
    | Bundle
    | Report,
    Field(discriminator="stage"),
]

STAGES: dict[str, type[Stage]] = {config.name(): config for config in get_args(get_args(StageConfig)[0])}
