"""Attention, model beside model. Only stages with the same images share a group."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgevit.artifacts import Artifact, Json
from edgevit.report.variants import Lineup, data_of, grouped

MOST_HEADS = 6  # shown of a layer
FILTERS_IN_A_ROW = 7
COLORS = "viridis"

Bytes = NDArray[np.uint8]
Floats = NDArray[np.floating]


def attention_beside(models: Lineup) -> list[Json]:
    """A record for each set of images: {data, images, models}, models from teacher to student.

    A model has `query`, `input_px` and, for each of its `layers`, `grid` and the `distances_px` of its heads.
    """
    return [
        {
            "data": data_of(group[0]).id,
            "images": group[0].metrics["images"],
            "models": [
                {
                    "id": attention.manifest.inputs["model"].id,
                    "attention": attention.id,
                    **{name: attention.metrics[name] for name in ("query", "input_px", "layers")},
                }
                for attention in group
            ],
        }
        for group in _groups(models)
    ]


def pictures_beside(models: Lineup) -> list[list[Json]]:
    """The pictures of each model of `attention_beside`, as data URLs."""
    return [[_pictures(attention) for attention in group] for group in _groups(models)]


def _groups(models: Lineup) -> list[Sequence[Artifact]]:
    return list(grouped(models, models.attentions, _images_of))


def _images_of(attention: Artifact) -> str:
    """A name for the images of a stage `attention`."""
    config = attention.manifest.config
    return json.dumps([data_of(attention).digest, config["images"], config["seed"]])


def _pictures(attention: Artifact) -> Json:
    record: Json = json.loads(attention.file("attention.json").read_text(encoding="utf-8"))
    with np.load(attention.file("attention.npz"), allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    return {
        "rows": _rows(attention, record["shown"], arrays["maps"]) if "maps" in arrays else [],
        "positions": _url(positions_picture(arrays["positions"])) if "positions" in arrays else None,
        "filters": _url(filters_picture(arrays["filters"])) if "filters" in arrays else None,
        "filters_count": len(arrays["filters"]) if "filters" in arrays else 0,
        "filters_explained": record["filters_explained"],
    }


def _rows(attention: Artifact, shown: Sequence[Mapping[str, Any]], maps: NDArray[np.float32]) -> list[Json]:
    """For each shown image its picture, the mean map over heads, and the maps of the first heads."""
    return [
        {
            "sample_id": image["sample_id"],
            "image": _url(np.asarray(Image.open(attention.file(image["file"])).convert("RGB"))),
            "mean": _url(map_picture(of_heads.mean(0))),
            "heads": [_url(map_picture(of_head)) for of_head in of_heads[:MOST_HEADS]],
        }
        for image, of_heads in zip(shown, maps, strict=True)
    ]


def map_picture(attention: Floats) -> Bytes:
    """Attention to each patch as colors, a pixel a patch, (rows, columns, 3): from 0 to the map's largest value."""
    return _colored(attention / max(float(attention.max()), 1e-12))


def positions_picture(similarity: Floats) -> Bytes:
    """Cosines (rows, columns, patch rows, patch columns) as a grid of tiles, from −1 to 1."""
    return _tiled(_colored((similarity + 1) / 2), similarity.shape[1])


def filters_picture(filters: Floats) -> Bytes:
    """Filters (n, height, width, 3) as tiles of colors. Gray is 0; each tile has its own scale."""
    largest = np.abs(filters).max(axis=(1, 2, 3), keepdims=True)
    return _tiled(np.round(127.5 + 127.5 * filters / np.maximum(largest, 1e-12)).astype(np.uint8), FILTERS_IN_A_ROW)


def _colored(shares: Floats) -> Bytes:
    colors: Bytes = mpl.colormaps[COLORS](shares, bytes=True)[..., :3]
    return colors


def _tiled(tiles: Bytes, in_a_row: int) -> Bytes:
    """Tiles (…, height, width, 3) as one picture, with a white pixel between two."""
    tiles = tiles.reshape(-1, *tiles.shape[-3:])
    rows = -(-len(tiles) // in_a_row)
    height, width = tiles.shape[1] + 1, tiles.shape[2] + 1
    picture = np.full((rows * height - 1, min(in_a_row, len(tiles)) * width - 1, 3), 255, np.uint8)
    for number, tile in enumerate(tiles):
        top, left = number // in_a_row * height, number % in_a_row * width
        picture[top : top + height - 1, left : left + width - 1] = tile
    return picture


def _url(picture: Bytes) -> str:
    file = BytesIO()
    Image.fromarray(picture).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
