"""Trained ranges of activations, by layer, which training under fake quantization adds to a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, FiniteFloat, ValidationError

from edgevit.artifacts import Artifact, Frozen
from edgevit.errors import ArtifactError

RANGES = "ranges.json"
LARGEST_FLOAT32 = 3.4e38


def _in_order(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"a range goes from its lowest to its highest value, got {bounds[0]:g} to {bounds[1]:g}")
    if max(-bounds[0], bounds[1]) > LARGEST_FLOAT32:
        raise ValueError(f"a range lies within float32, got {bounds[0]:g} to {bounds[1]:g}")
    return bounds


Range = Annotated[tuple[FiniteFloat, FiniteFloat], AfterValidator(_in_order)]


class LayerRanges(Frozen):
    """The lowest and highest value of a layer's input, and of its output if that is quantized, too."""

    input: Range
    output: Range | None = None


class TrainedRanges(Frozen):
    """`ranges.json` in a checkpoint.

    Attributes:
        runtime: the runtime whose dialect the model was trained for.
        layers: by the path of the layer in the timm model, as in its state dict.
        reduce_range: whether weights were rounded to 7 bits.
    """

    runtime: str
    reduce_range: bool = False
    layers: dict[str, LayerRanges] = Field(min_length=1)


def save_ranges(ranges: TrainedRanges, out: Path) -> None:
    """Write `ranges.json` into folder `out`."""
    (out / RANGES).write_text(ranges.model_dump_json(indent=2) + "\n", encoding="utf-8")


def trained_ranges(checkpoint: Artifact) -> TrainedRanges | None:
    """The ranges in a checkpoint; None if it was not trained under fake quantization."""
    if RANGES not in checkpoint.manifest.files:
        return None
    file = checkpoint.file(RANGES)
    try:
        return TrainedRanges.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise ArtifactError(f"the trained ranges cannot be read: {error.errors()[0]['msg']}", where=file) from None
