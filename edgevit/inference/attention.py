"""The attention of a frozen model over a data set."""

from __future__ import annotations

import torch

from edgevit.artifacts import Preprocess
from edgevit.data.dataset import Dataset
from edgevit.data.loading import ViewDataset
from edgevit.inference.over_dataset import SMALL_BATCH, images_on, over_canvases
from edgevit.models.attention import LayerAttention, recorded_attention
from edgevit.models.timm_models import timm_model
from edgevit.progress import Bar


def attention_of(
    model: torch.nn.Module,
    dataset: Dataset,
    preprocess: Preprocess,
    device: torch.device,
    bar: Bar | None = None,
    most_maps: int | None = None,
) -> list[LayerAttention]:
    """The attention of each layer that can be read, in the order of the model, over all images of the data set.

    Maps are kept of the first `most_maps` images, or of all.
    Test-time views are left out: a model with views looks at the plain image.
    """
    inner = timm_model(model).to(device).eval()
    size = (preprocess.height, preprocess.width)

    def answer(canvases: torch.Tensor) -> torch.Tensor:
        inner(images_on(device, canvases, preprocess))
        return torch.zeros(len(canvases))

    with recorded_attention(inner, size, most_maps) as layers:
        over_canvases(answer, ViewDataset(dataset, preprocess, None, seed=0), 0, SMALL_BATCH, bar)
    return list(layers.values())
