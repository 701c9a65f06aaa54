"""What fields of a recipe may be: numbers within bounds, references to what came before, files on disk."""

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
Positive = Annotated[float, bounds.POSITIVE]
NonNegative = Annotated[float, bounds.NON_NEGATIVE]
Rate = Annotated[float, bounds.RATE]
Ratio = Annotated[float, bounds.RATIO]
Degrees = Annotated[float, bounds.DEGREES]
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
Opset = Annotated[int, bounds.OPSET]
Seed = Annotated[int, bounds.SEED]
MOST_NESTED = 20  # levels of lists and mappings in model_args
LONGEST_ID = 200  # characters; a folder has that name
OPSET = 20  # of ONNX files where no other is asked for
QuantizedPrecision = Literal["int8", "float8", "int4"]
Calibrator = Literal["minmax", "entropy", "percentile", "mse"]
ClassOrder = Literal["natural", "text"]  # of class folders: as timm has them, 2 before 10; as torchvision, 10 before 2
# Arguments of timm's create_model that read files, or make another kind of model than its name says.
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
FOLLOWED_OVERLAY = ("mean", "std", "interpolation", "crop_pct", "crop_mode")  # how pictures are prepared


def _checked_model_args(given: Any, depth: int = 0) -> Any:
    """What JSON can hold, and numbers within bounds."""
    if depth > MOST_NESTED:
        raise ValueError(f"more than {MOST_NESTED} levels of lists and mappings")
    if isinstance(given, dict):
        return {str(name): _checked_model_args(value, depth + 1) for name, value in given.items()}
    if isinstance(given, list | tuple):
        items = [_checked_model_args(value, depth + 1) for value in given]
        return items if isinstance(given, list) else tuple(items)
    if not isinstance(given, str | bool | int | float | None):
        raise ValueError(f"a {type(given).__name__} is no value that a recipe can hold: {given}")
    if isinstance(given, int | float) and given not in bounds.MODEL_ARGUMENT:
        raise ValueError(f"numbers should be {bounds.MODEL_ARGUMENT}, got {given:g}")
    return given


def refused_model_arg(model_args: Mapping[str, Any]) -> tuple[str, str] | None:
    """The first argument that no model is built with, and why, or what to use; None where all are fine."""
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


@dataclass(frozen=True)
class Takes:
    """Marks a field that names an earlier stage or a data set, and the kinds it may be."""

    kinds: tuple[Kind, ...]


@dataclass(frozen=True)
class ReadsFile:
    """Marks a field that names a file on disk: its content, not its path, enters the stage's key."""


MEASUREMENTS: tuple[Kind, ...] = ("evaluation", "latency", "check")

DatasetRef = Annotated[str, Takes(("dataset",))]
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
    found = set()
    for name, info in config.model_fields.items():
        if any(_marks(info.annotation, info.metadata, Takes)):
            found.add(name)
        for inner in _configs_in(info.annotation):
            found |= reference_fields(inner)
    return found


def input_files(config: BaseModel) -> dict[str, Path]:
    """The fields of a stage that name a file on disk."""
    return {
        name: Path(value)
        for name, info in type(config).model_fields.items()
        if (value := getattr(config, name)) is not None and any(_marks(info.annotation, info.metadata, ReadsFile))
    }


def with_absolute_files(config: C, base: Path) -> C:
    """The same stage, its files named from the root; relative ones start from `base`."""
    files = input_files(config)
    return config.model_copy(update={name: str(absolute_path(path, base)) for name, path in files.items()})


def absolute_path(given: str | Path, base: Path) -> Path:
    """A path of a recipe from the root; a relative one starts from `base`, ~ and ~USER are the users' folders.

    Raises RecipeError where this machine has no such user, or a folder's name is not UTF-8.
    """
    try:
        path = (base / Path(given).expanduser()).absolute()
    except RuntimeError:
        raise RecipeError("there is no such user", got=given, expected="~ or ~USER of this machine") from None
    check_utf8(path)
    return path


def check_utf8(path: Path) -> None:
    """Raise RecipeError for a path that cannot be written into a file of text: records of results hold it."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise RecipeError("the folder's name is not UTF-8", where=path, next="rename it") from None


def _configs_in(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _configs_in(argument)


def _marks(annotation: object, metadata: list[Any], mark: type[M]) -> Iterator[M]:
    yield from (item for item in metadata if isinstance(item, mark))
    for argument in getattr(annotation, "__args__", ()):
        yield from _marks(argument, list(getattr(argument, "__metadata__", ())), mark)
