"""Attention: its maps, and the distances between patches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edgevit.report.text.layout import in_tables, paragraph
from edgevit.report.text.numbers import NOT_MEASURED

ATTENTION_NOTE = (
    "Images: as the model sees them. Maps: attention of the query to each patch in the last layer, from 0 (dark) to "
    "the largest value of the map (bright). Distances: mean pixels between a patch and the patches that it attends "
    "to, a point a head (Dosovitskiy et al. 2021, figure 11). Position embeddings: a tile a patch, with its cosines "
    "with those of all patches, from -1 (dark) to 1 (bright) (figure 7). Filters: gray is 0. Attention does not prove "
    "what decides an answer."
)


def attention_title(group: Mapping[str, Any]) -> str:
    return f"Attention on {group['images']:,} images of {group['data']}"


def attention_caption(model: Mapping[str, Any]) -> str:
    """The layer and the query of a model's maps, and the size of its input."""
    if not model["layers"]:
        return "No layer with attention between all patches can be read."
    last, (rows, columns) = model["layers"][-1], model["layers"][-1]["grid"]
    heads = len(last["distances_px"])
    height, width = model["input_px"]
    return (
        f"Layer {last['name']}, {heads} heads, {rows} × {columns} patches of {width} × {height} px in all. "
        f"Query: {model['query']}."
    )


def attention_section(group: Mapping[str, Any]) -> Iterator[str]:
    """The section of report.md: the mean distance of each layer, as a share, because the inputs differ in size."""
    models = [model for model in group["models"] if model["layers"]]
    if not models:
        return
    yield f"## {attention_title(group)}"
    yield paragraph(
        "Mean distance between a patch and the patches that it attends to, in shares of the mean distance of uniform "
        "attention:"
    )
    depth = max(len(model["layers"]) for model in models)
    rows = [
        (f"layer {number + 1}", *(_mean_distance(model["layers"], number) for model in models))
        for number in range(depth)
    ]
    yield from in_tables([("layer", *(model["id"] for model in models)), *rows])
    yield "The attention maps are in report.html."


def _mean_distance(layers: Sequence[Mapping[str, Any]], number: int) -> str:
    if number >= len(layers):
        return NOT_MEASURED
    distances = layers[number]["distances_px"]
    return f"{sum(distances) / len(distances) / layers[number]['uniform_px']:.2f}"
