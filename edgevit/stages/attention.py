"""attention: a checkpoint and images → attention maps, mean distances, position similarity and first filters."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.decomposition import PCA

from edgevit.artifacts import Artifact, Contents, Json
from edgevit.configs import Attention
from edgevit.context import Context
from edgevit.data import open_dataset
from edgevit.data.loading import ViewDataset
from edgevit.data.splits import sample_by_hash
from edgevit.errors import DataError
from edgevit.inference.attention import attention_of
from edgevit.models import open_checkpoint
from edgevit.models.attention import LayerAttention, first_filters, position_similarity
from edgevit.models.timm_models import timm_model

RECORD, ARRAYS = "attention.json", "attention.npz"
SHOWN_IMAGES = 6
SHOWN_FILTERS = 28  # principal components, as in Dosovitskiy et al. 2021, figure 7
MOST_POSITIONS = 14  # along a side of the grid of similarities
THUMBNAIL_SIDE = 72


def run(config: Attention, inputs: Mapping[str, Artifact], context: Context, out: Path) -> Contents:
    built = open_checkpoint(inputs["model"])
    dataset = sample_by_hash(open_dataset(inputs["data"]), config.images, config.seed)
    if not len(dataset):
        raise DataError("attention needs images", where=dataset.name, got="no images")
    with context.progress.bar(f"attention on {dataset.name}", len(dataset), "images") as bar:
        layers = attention_of(built.module, dataset, built.preprocess, torch.device(context.device), bar, SHOWN_IMAGES)
    if not layers:
        reason = "no layer with attention between all patches can be read: the report shows first filters alone"
        context.progress.say(f"    {config.id}: {reason}")
    has_class_token = getattr(timm_model(built.module), "cls_token", None) is not None
    height, width = built.preprocess.height, built.preprocess.width
    filters, explained = _components(first_filters(built.module))
    arrays = {
        "maps": _maps(layers),
        "positions": _positions(position_similarity(built.module)),
        "filters": filters,
    }
    stored: Json = {name: array for name, array in arrays.items() if array is not None}
    np.savez_compressed(out / ARRAYS, **stored)
    record = {
        "query": "class token" if has_class_token else "mean over all patches",
        "input_px": [height, width],
        "images": len(dataset),
        "shown": write_images(ViewDataset(dataset, built.preprocess), out),
        "layers": [_layer(layer) for layer in layers],
        "filters_explained": explained,
    }
    (out / RECORD).write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return Contents(
        kind="attention", metrics={name: record[name] for name in ("query", "images", "input_px", "layers")}
    )


def _layer(layer: LayerAttention) -> Json:
    """The record of a layer: its mean distances over all images, one for each head, in pixels of the input."""
    distances = torch.stack(layer.distances_px).double().mean(0)
    return {
        "name": layer.name,
        "grid": list(layer.grid),
        "distances_px": distances.tolist(),
        "uniform_px": layer.uniform_px,
    }


def _maps(layers: Sequence[LayerAttention]) -> NDArray[np.float32] | None:
    """The maps of the last layer for the shown images, (images, heads, rows, columns)."""
    return torch.stack(layers[-1].maps).numpy() if layers else None


def _positions(similarity: torch.Tensor | None) -> NDArray[np.float32] | None:
    """Similarities of at most MOST_POSITIONS² evenly spaced positions with all, (rows, columns, rows, columns)."""
    if similarity is None:
        return None
    rows, columns = (
        np.unique(np.linspace(0, side - 1, min(side, MOST_POSITIONS)).round().astype(int))
        for side in similarity.shape[:2]
    )
    chosen: NDArray[np.float32] = similarity.numpy()[np.ix_(rows, columns)].astype(np.float32)
    return chosen


def _components(filters: torch.Tensor | None) -> tuple[NDArray[np.float32] | None, float | None]:
    """The first principal components of filters, (components, height, width, 3), and their share of the variance."""
    if filters is None:
        return None, None
    flat = filters.flatten(1).numpy()
    found = PCA(min(SHOWN_FILTERS, *flat.shape), svd_solver="full").fit(flat)
    components = found.components_.reshape(-1, *filters.shape[1:]).astype(np.float32)
    return components, float(found.explained_variance_ratio_.sum())


def write_images(views: ViewDataset, out: Path) -> list[Json]:
    """Write what the model sees of the first images, so that the patches of a map lie on it."""
    (out / "images").mkdir()
    shown = []
    for position in range(min(SHOWN_IMAGES, len(views))):
        name = f"images/{position}.png"
        image = Image.fromarray(views[0, 0, position][0].numpy())
        image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
        image.save(out / name)
        shown.append({"file": name, "sample_id": views.dataset.sample_ids[position]})
    return shown
