"""Types of the fields of a recipe: numbers within bounds, references to earlier stages and data sets, files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel

from edgevit import bounds
from edgevit.artifacts import Kind
from edgevit.errors import RecipeError

M = TypeVar("M")
C = TypeVar("C", bound=BaseModel)

Fraction = Annotated[float, bounds.FRACTION]
Share = Annotated[float, bounds.SHARE]
Loss = Annotated[float, bounds.LOSS]
Beta = Annotated[float, bounds.BETA]
Momentum = Annotated[float, bounds.MOMENTUM]
CosineTemperature = Annotated[float, bounds.COSINE_TEMPERATURE]
Positive = Annotated[float, bounds.POSITIVE]
NonNegative = Annotated[float, bounds.NON_NEGATIVE]
Rate = Annotated[float, bounds.RATE]
Ratio = Annotated[float, bounds.RATIO]
Degrees = Annotated[float, bounds.DEGREES]
Hue = Annotated[float, bounds.HUE]
MaskedShare = Annotated[float, bounds.MASKED]
DecoderWidth = Annotated[int, bounds.DECODER_WIDTH]
PuzzleGrid = Annotated[int, bounds.PUZZLE_GRID]
Decibels = Annotated[float, bounds.DECIBELS]
MeasuredSeconds = Annotated[float, bounds.MEASURED_S]
WarmupSeconds = Annotated[float, bounds.WARMUP_S]
Count = Annotated[int, bounds.COUNT]
ImageCount = Annotated[int, bounds.IMAGES]
GlyphCount = Annotated[int, bounds.GLYPHS]
ClassCount = Annotated[int, bounds.CLASSES]
BatchSize = Annotated[int, bounds.BATCH]
Epochs = Annotated[int, bounds.EPOCHS]
Side = Annotated[int, bounds.SIDE]
LayerIndex = Annotated[int, bounds.LAYER]
Threads = Annotated[int, bounds.THREADS]
Repeats = Annotated[int, bounds.REPEATS]
ViewCount = Annotated[int, bounds.VIEWS]
Severity = Annotated[int, bounds.SEVERITY]
BuilderLevel = Annotated[int, bounds.BUILDER_LEVEL]
BuildCount = Annotated[int, bounds.BUILDS]
StartCount = Annotated[int, bounds.STARTS]
FrameRate = Annotated[float, bounds.RATE_HZ]
Opset = Annotated[int, bounds.OPSET]
Seed = Annotated[int, bounds.SEED]
MOST_NESTED = 20  # levels of lists and mappings in model_args
LONGEST_ID = 200  # characters; a folder has this name
RANGE_OF_TENSORRT = "reduce_range is for CPUs: leave it out for tensorrt, which adds in 32 bits"
OPSET = 20  # the default opset of ONNX files
QuantizedPrecision = Literal["int8", "float8", "int4"]
Calibrator = Literal["minmax", "entropy", "percentile", "mse"]
ClassOrder = Literal["natural", "text"]  # of class folders: natural is timm's, 2 before 10; text torchvision's
# Arguments of timm's create_model that read files or change the kind of model.
REFUSED_MODEL_ARGS = {
    **dict.fromkeys(("checkpoint_path", "pretrained_cfg"), "use weights: FILE"),
    **dict.fromkeys(
        ("pretrained", "pretrained_strict", "pretrained_filter_fn"), "use pretrained: true or weights: FILE"
    ),
    **dict.fromkeys(("cache_dir", "model_name", "default_cfg", "file", "url", "hf_hub_id"), "use weights: FILE"),
    **dict.fromkeys(("num_classes",), "use classes or classes_of"),
    **dict.fromkeys(("features_only", "feature_cls", "feature_cfg", "out_indices"), "edgevit needs a classifier"),
    **dict.fromkeys(("scriptable", "exportable", "no_jit", "in_chans"), "edgevit sets it"),
}
FOLLOWED_OVERLAY = ("mean", "std", "interpolation", "crop_pct", "crop_mode")  # preprocessing


def _checked_model_args(value: Any, depth: int = 0) -> Any:
    """The value, if it is JSON and its numbers are within bounds. Raises ValueError otherwise."""
    if depth > MOST_NESTED:
        raise ValueError(f"more than {MOST_NESTED} levels of lists and mappings")
    if isinstance(value, dict):
        return {str(name): _checked_model_args(item, depth + 1) for name, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_checked_model_args(item, depth + 1) for item in value]
        return items if isinstance(value, list) else tuple(items)
    if not isinstance(value, str | bool | int | float | None):
        raise ValueError(f"a recipe cannot hold a {type(value).__name__}: {value}")
    if isinstance(value, int | float) and value not in bounds.MODEL_ARGUMENT:
        raise ValueError(f"numbers should be {bounds.MODEL_ARGUMENT}, got {value:g}")
    return value


def refused_model_arg(model_args: Mapping[str, Any]) -> tuple[str, str] | None:
    """The first refused argument and the reason or the alternative; None if all arguments are accepted."""
    for name in model_args:
        if name in REFUSED_MODEL_ARGS:
            return name, REFUSED_MODEL_ARGS[name]
    overlay = model_args.get("pretrained_cfg_overlay", {})
    if not isinstance(overlay, Mapping) or not set(overlay) <= set(FOLLOWED_OVERLAY):
        return "pretrained_cfg_overlay", f"it may hold {', '.join(FOLLOWED_OVERLAY)}"
    return None


def _buildable(model_args: dict[str, Any]) -> dict[str, Any]:
    if refused := refused_model_arg(model_args):
        raise ValueError(f"'{refused[0]}' does not belong in model_args: {refused[1]}")
    return model_args


ModelArgs = Annotated[dict[str, Any], AfterValidator(_checked_model_args), AfterValidator(_buildable)]


Purpose = Literal["learned from", "adapted to", "calibrated by", "validated on", "judged by", "looked at", "names only"]


@dataclass(frozen=True)
class Takes:
    """Marks a field that names an earlier stage or a data set.

    Attributes:
        kinds: the kinds of artifact that the field takes.
        purpose: the use of a data set; None of other kinds.

            learned from    weights, or the heads of an evaluation, are made from it
            adapted to      a few labelled images, and each of them counts
            calibrated by   ranges, a temperature or a threshold are measured on it
            validated on    accuracy on it is reported during training, or decides which quantized form ships
            judged by       accuracy is measured on it
            looked at       pictures of it are shown, and nothing is measured that a model could have learned
            names only      its class names are taken, and no image

        needs_labels: labels, if there are any, have to be ground truth, not a teacher's.
    """

    kinds: tuple[Kind, ...]
    purpose: Purpose | None = None
    needs_labels: bool = False


@dataclass(frozen=True)
class ReadsFile:
    """Marks a field that names a file on disk: its content, not its path, enters the stage's key."""


@dataclass(frozen=True)
class ReadsKnownFiles:
    """Marks a field that names a folder of files whose hashes are known: neither path nor content enters the key."""


@dataclass(frozen=True)
class Added:
    """Marks an option that the first release did not have. At its default, it does not enter the stage's key."""


MEASUREMENTS: tuple[Kind, ...] = ("evaluation", "latency", "check", "attention")

LearnedFrom = Annotated[str, Takes(("dataset",), "learned from")]
AdaptedTo = Annotated[str, Takes(("dataset",), "adapted to")]
CalibratedBy = Annotated[str, Takes(("dataset",), "calibrated by")]
CalibratedByLabels = Annotated[str, Takes(("dataset",), "calibrated by", needs_labels=True)]
ValidatedOn = Annotated[str, Takes(("dataset",), "validated on")]
AnswersComparedOn = Annotated[str, Takes(("dataset",), "validated on", needs_labels=True)]
JudgedBy = Annotated[str, Takes(("dataset",), "judged by", needs_labels=True)]
LookedAt = Annotated[str, Takes(("dataset",), "looked at")]
NamesOnly = Annotated[str, Takes(("dataset",), "names only")]
CheckpointRef = Annotated[str, Takes(("checkpoint",))]
OnnxRef = Annotated[str, Takes(("onnx",))]
ModelRef = Annotated[str, Takes(("checkpoint", "onnx", "engine"))]
FileModelRef = Annotated[str, Takes(("onnx", "engine"))]
MeasurementRef = Annotated[str, Takes(MEASUREMENTS)]


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


def reference_fields(config: type[BaseModel]) -> set[str]:
    """The names of the fields of a config, and of configs inside it, that name an earlier stage or a data set."""
    names = set()
    for name, info in config.model_fields.items():
        if any(_marks(info.annotation, info.metadata, Takes)):
            names.add(name)
        for inner in _configs_in(info.annotation):
            names |= reference_fields(inner)
    return names


def purpose_of(config: type[BaseModel], path: str) -> Purpose | None:
    """The purpose of the data set at a dotted path, such as "streams.0.data"; None if no field there takes one."""
    record: type[BaseModel] | None = config
    for name in path.split("."):
        if name.isdecimal():
            continue
        info = record.model_fields.get(name) if record is not None else None
        if info is None:
            return None
        if takes := next(_marks(info.annotation, info.metadata, Takes), None):
            return takes.purpose
        record = next(_configs_in(info.annotation), None)
    return None


def input_files(config: BaseModel) -> dict[str, Path]:
    """The fields of a stage that name a file on disk."""
    return _paths(config, ReadsFile)


def known_folders(config: BaseModel) -> dict[str, Path]:
    """The fields of a stage that name a folder of files whose hashes are known."""
    return _paths(config, ReadsKnownFiles)


def added_at_default(config: BaseModel) -> set[str]:
    """The names of the options that were added later and have their default."""
    return {
        name
        for name, info in type(config).model_fields.items()
        if any(_marks(info.annotation, info.metadata, Added)) and getattr(config, name) == info.default
    }


def with_absolute_files(config: C, base: Path) -> C:
    """A copy of the stage with absolute paths of its files and folders. A relative path starts from `base`."""
    files = input_files(config) | known_folders(config)
    return config.model_copy(update={name: str(absolute_path(path, base)) for name, path in files.items()})


def absolute_path(path: str | Path, base: Path) -> Path:
    """An absolute path. A relative path starts from `base`; ~ and ~USER are home folders.

    Raises RecipeError where this machine has no such user, or a folder's name is not UTF-8.
    """
    try:
        absolute = (base / Path(path).expanduser()).absolute()
    except RuntimeError:
        raise RecipeError("there is no such user", got=path, expected="~ or ~USER of this machine") from None
    check_utf8(absolute)
    return absolute


def check_utf8(path: Path) -> None:
    """Raise RecipeError if a path is not UTF-8: manifests hold paths as text."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise RecipeError("the folder's name is not UTF-8", where=path, next="rename it") from None


def _paths(config: BaseModel, mark: type[object]) -> dict[str, Path]:
    return {
        name: Path(value)
        for name, info in type(config).model_fields.items()
        if (value := getattr(config, name)) is not None and any(_marks(info.annotation, info.metadata, mark))
    }


def _configs_in(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _configs_in(argument)


def _marks(annotation: object, metadata: list[Any], mark: type[M]) -> Iterator[M]:
    yield from (item for item in metadata if isinstance(item, mark))
    for argument in getattr(annotation, "__args__", ()):
        yield from _marks(argument, list(getattr(argument, "__metadata__", ())), mark)
