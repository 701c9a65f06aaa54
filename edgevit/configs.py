"""What a recipe may say: frozen records for data sets and stages. Every default lives here and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, Field, model_validator

from edgevit.artifacts import Frozen, Kind

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Takes:
    """Marks a field that names an earlier stage or a data set, and the kinds it may be."""

    kinds: tuple[Kind, ...]


@dataclass(frozen=True)
class ReadsFile:
    """Marks a field that names a file on disk: its content, not its path, enters the stage's key."""


DatasetRef = Annotated[str, Takes(("dataset",))]
CheckpointRef = Annotated[str, Takes(("checkpoint",))]
OnnxRef = Annotated[str, Takes(("onnx",))]
ModelRef = Annotated[str, Takes(("checkpoint", "onnx", "engine"))]
FileModelRef = Annotated[str, Takes(("onnx", "engine"))]
MeasurementRef = Annotated[str, Takes(("evaluation", "latency"))]


# Budget -------------------------------------------------------------------------------------------------------


class Budget(Frozen):
    """What the deployed model may cost. A limit that is left out is not judged."""

    latency_ms: Positive | None = Field(None, description="largest p50 latency, in ms")
    top1_drop: NonNegative | None = Field(None, description="largest loss of top-1 against the float student")
    size_mib: Positive | None = Field(None, description="largest model file, in MiB")


# Data sets ----------------------------------------------------------------------------------------------------


class FewShot(Frozen):
    """A support set of `shots` labelled images a class; the rest of the training images is the unlabelled pool."""

    shots: Count = Field(5, description="labelled images a class")
    draw: Annotated[int, Field(ge=0)] = Field(0, description="which random draw of the support")


class Splits(Frozen):
    """Fractions for a data set that has no splits of its own.

    Each sample goes where the hash of its id says, so that it stays there when others are added; every class is divided
    by the same fractions in expectation.
    """

    val: Fraction = 0.1
    test: Fraction = 0.2
    seed: int = 0

    @model_validator(mode="after")
    def _leaves_something_to_train_on(self) -> Splits:
        if self.val + self.test >= 1:
            raise ValueError(f"val + test must be below 1, got {self.val + self.test:g}")
        return self


class _Dataset(Frozen):
    few_shot: FewShot | None = Field(None, description="adds the roles support and pool")
    include_classes: tuple[str, ...] | None = Field(None, description="keep only these classes")


class ImageFolder(_Dataset):
    """Pictures in folders: PATH/{train,val,test}/CLASS/… or PATH/CLASS/…"""

    source: Literal["image_folder"]
    path: str = Field(description="folder, absolute or relative to the recipe")
    classes: Literal["top", "leaf", "none"] = Field(
        "top", description="which folder level names the class; none: pictures without labels"
    )
    splits: Splits = Field(Splits(), description="used where PATH has no train/val/test folders")
    on_bad_image: Literal["skip", "refuse"] = Field("skip", description="what to do with a file that cannot be read")


class Cifar(_Dataset):
    """CIFAR-10 or CIFAR-100 in the official python format, from a local folder; md5 sums are checked."""

    source: Literal["cifar10", "cifar100"]
    path: str = Field(description="folder that holds cifar-10-batches-py or cifar-100-python")
    val_fraction: Fraction = 0.0


class Npz(_Dataset):
    """Arrays `images` (N,H,W[,C]) uint8 and `labels` (N,), or the same with a role before: train_images, …"""

    source: Literal["npz"]
    path: str = Field(description="the .npz file")
    splits: Splits = Splits()


class Glyphs(_Dataset):
    """Characters rendered from the fonts that matplotlib ships, without digits; made from a seed."""

    source: Literal["glyphs"]
    samples_per_class: Count = Field(200, description="training images of each character; a tenth as many to validate")
    size: Count = Field(32, description="side in pixels")
    seed: int = 0


class Digits(_Dataset):
    """scikit-learn's 1,797 scanned handwritten digits (8×8): a fixed half to train, the other half to test."""

    source: Literal["digits"]


DATASETS: dict[str, type[Frozen]] = {
    "image_folder": ImageFolder,
    "cifar10": Cifar,
    "cifar100": Cifar,
    "npz": Npz,
    "glyphs": Glyphs,
    "digits": Digits,
}

DatasetConfig = Annotated[ImageFolder | Cifar | Npz | Glyphs | Digits, Field(discriminator="source")]


# Stages -------------------------------------------------------------------------------------------------------


class Stage(Frozen):
    """What all stages share. `version` changes when a stage would give another result for the same inputs."""

    makes: ClassVar[Kind]
    version: ClassVar[int] = 1
    reads_budget: ClassVar[bool] = False
    reads_names: ClassVar[bool] = False  # of the recipe and of its stages

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9][A-Za-z0-9_.-]*)*$")] = Field(
        description="the name by which later stages refer to this one, and its folder in the run"
    )

    @classmethod
    def name(cls) -> str:
        """The name that recipes give as `stage`."""
        return cls.__name__.lower()


class Augmentation(Frozen):
    """Random changes to training images; each draw is a function of (seed, epoch, view, sample)."""

    scale: tuple[Fraction, Fraction] = Field((0.6, 1.0), description="area of the random crop")
    ratio: tuple[Positive, Positive] = (0.75, 4 / 3)
    horizontal_flip: Fraction = 0.5
    color_jitter: NonNegative = 0.0
    auto_augment: str | None = Field(None, description="a timm policy, such as rand-m9-mstd0.5-inc1")
    random_erasing: Fraction = 0.0
    rotate_degrees: NonNegative = 0.0
    mixup: NonNegative = Field(0.0, description="alpha of mixup; 0 is off")
    cutmix: NonNegative = Field(0.0, description="alpha of cutmix; 0 is off")


class Training(Stage):
    """Fields of every stage that trains."""

    makes: ClassVar[Kind] = "checkpoint"

    epochs: Annotated[int, Field(ge=0)] = Field(10, description="passes over the first stream")
    batch_size: Count = 64
    learning_rate: Annotated[float, Field(ge=0)] = 5e-4
    weight_decay: NonNegative = 0.05
    optimizer: str = Field("adamw", description="any timm optimiser")
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_fraction: Fraction = Field(0.05, description="share of the steps over which the learning rate rises")
    clip_grad_norm: Positive | None = None
    label_smoothing: Fraction = 0.0
    drop_path_rate: Fraction = 0.0
    ema_decay: Fraction | None = Field(
        None, description="keep an exponential moving average of the weights, and ship it"
    )
    augmentation: Augmentation = Augmentation()
    seed: int = 0


class Load(Stage):
    """Take a timm model: pretrained, from a safetensors or timm checkpoint on disk, or as initialised."""

    stage: Literal["load"]
    makes: ClassVar[Kind] = "checkpoint"

    model: str = Field(description="a timm model name")
    model_args: dict[str, Any] = {}
    pretrained: bool = False
    weights: Annotated[str, ReadsFile()] | None = Field(
        None, description="a .safetensors file, or a .pth that holds tensors only; relative to the recipe"
    )
    classes: tuple[str, ...] | None = Field(None, description="class names in the order of the outputs")
    classes_of: DatasetRef | None = Field(None, description="or the data set that has them")
    image_size: Count | None = None


def _check_start(config: Train | Distill) -> None:
    if (config.model is None) == (config.init is None):
        raise ValueError("give either 'model' (a timm name) or 'init' (an earlier checkpoint)")
    fixed = [name for name in ("model_args", "distillation_token") if getattr(config, name, None)]
    if config.init is not None and fixed:
        raise ValueError(f"'{fixed[0]}' goes with 'model'; a checkpoint given as 'init' keeps its own")


class Train(Training):
    """Train a classifier on labelled images."""

    stage: Literal["train"]
    model: str | None = Field(None, description="a timm model name; or give `init`")
    model_args: dict[str, Any] = {}
    init: CheckpointRef | None = Field(
        None, description="start from this checkpoint; the head is new where classes differ"
    )
    image_size: Count | None = Field(None, description="side in pixels; the model's own by default")
    data: DatasetRef
    val: DatasetRef | None = None

    @model_validator(mode="after")
    def _one_start(self) -> Train:
        _check_start(self)
        return self


class Fewshot(Training):
    """Adapt a checkpoint to the classes of a small support set, with or without an unlabelled pool."""

    stage: Literal["fewshot"]

    model: CheckpointRef
    support: DatasetRef
    pool: DatasetRef | None = None
    method: Literal["nearest_centroid", "logistic_regression", "label_propagation", "finetune"] | None = Field(
        None, description="label_propagation where there is a pool, else logistic_regression"
    )


class Stream(Frozen):
    """One source of training batches."""

    data: DatasetRef
    share: Annotated[float, Field(gt=0, le=1)] = Field(1.0, description="share of each batch; all shares add up to 1")


class Objective(Frozen):
    """One term of the loss, averaged over the samples it applies to.

    cross_entropy: CE with the label (labelled samples). hard: CE with the teacher's argmax (DeiT, eq. 3).
    soft: τ²·KL(teacher‖student) (Hinton et al. 2015; DeiT, eq. 2). A student with a distillation token learns
    cross_entropy with its class head and the teacher's terms with its distillation head; one without it learns both
    with its one head.
    """

    loss: Literal["cross_entropy", "hard", "soft"]
    weight: Positive = 1.0
    temperature: Positive = Field(1.0, description="τ, of soft")
    kl_reduction: Literal["batchmean", "mean"] = Field(
        "batchmean", description="batchmean divides by samples; mean by samples × classes, as DeiT's code does"
    )


class Distill(Training):
    """Train a student to agree with a teacher."""

    stage: Literal["distill"]
    teacher: CheckpointRef
    model: str | None = Field(None, description="the student, a timm model name; or give `init`")
    model_args: dict[str, Any] = {}
    init: CheckpointRef | None = None
    distillation_token: bool = Field(False, description="a second token and head that learn from the teacher (DeiT)")
    image_size: Count | None = None
    streams: tuple[Stream, ...] = Field(min_length=1)
    objectives: tuple[Objective, ...] = Field(
        (Objective(loss="cross_entropy", weight=0.5), Objective(loss="hard", weight=0.5)), min_length=1
    )
    val: DatasetRef | None = None

    @model_validator(mode="after")
    def _checks(self) -> Distill:
        _check_start(self)
        total = sum(stream.share for stream in self.streams)
        if len(self.streams) > 1 and abs(total - 1) > 1e-6:
            raise ValueError(f"the shares of the streams must add up to 1, got {total:g}")
        return self


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
    Load | Train | Fewshot | Distill | Export | Quantize | Compile | Evaluate | Profile | Bundle | Report,
    Field(discriminator="stage"),
]

STAGES: dict[str, type[Stage]] = {
    config.name(): config
    for config in (Load, Train, Fewshot, Distill, Export, Quantize, Compile, Evaluate, Profile, Bundle, Report)
}


M = TypeVar("M")
S = TypeVar("S", bound=Stage)

# References ---------------------------------------------------------------------------------------------------


def references(
    config: BaseModel, path: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], str, Takes]]:
    """Every (path, name, Takes) in a config: the fields that name an earlier stage or a data set."""
    for name, info in type(config).model_fields.items():
        value = getattr(config, name)
        takes = next(_marks(info.annotation, info.metadata, Takes), None)
        if takes and isinstance(value, str):
            yield (*path, name), value, takes
        elif isinstance(value, tuple):
            for index, item in enumerate(value):
                if isinstance(item, BaseModel):
                    yield from references(item, (*path, name, index))
                elif takes and isinstance(item, str):
                    yield (*path, name, index), item, takes
        elif isinstance(value, BaseModel):
            yield from references(value, (*path, name))


def input_files(config: BaseModel) -> dict[str, Path]:
    """The fields of a stage that name a file on disk."""
    return {
        name: Path(value)
        for name, info in type(config).model_fields.items()
        if (value := getattr(config, name)) is not None and any(_marks(info.annotation, info.metadata, ReadsFile))
    }


def with_absolute_files(config: S, base: Path) -> S:
    """The same stage, its files named from the root; relative ones start from `base`."""
    files = input_files(config)
    return config.model_copy(update={name: str((base / path).absolute()) for name, path in files.items()})


def _marks(annotation: object, metadata: list[Any], mark: type[M]) -> Iterator[M]:
    yield from (item for item in metadata if isinstance(item, mark))
    for argument in getattr(annotation, "__args__", ()):
        yield from _marks(argument, list(getattr(argument, "__metadata__", ())), mark)
