"""Second moments of the inputs of a model's linear layers, over a data set."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from edgevit.data.dataset import Dataset
from edgevit.data.loading import ViewDataset
from edgevit.errors import DataError
from edgevit.inference.over_dataset import SMALL_BATCH, images_on, over_canvases
from edgevit.models.creation import BuiltModel
from edgevit.models.timm_models import classifier_prefixes, timm_model
from edgevit.progress import Progress


def second_moments(built: BuiltModel, dataset: Dataset, device: torch.device, progress: Progress) -> dict[str, Tensor]:
    """Σ x·xᵀ over images and positions for each linear layer that runs, by its path, (inputs, inputs). The classifier
    is left out.

    Raises:
        DataError: there are no images.
    """
    if not len(dataset):
        raise DataError("the data set has no images", where=dataset.name)
    model = built.module.to(device).eval()
    inner, sums = timm_model(model), dict[str, Tensor]()
    heads = classifier_prefixes(inner)

    def adding(path: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def add(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            rows = inputs[0].detach().flatten(0, -2)
            sums[path] = sums.get(path, 0) + rows.T @ rows

        return add

    hooks = [
        layer.register_forward_pre_hook(adding(path))
        for path, layer in inner.named_modules()
        if type(layer) is nn.Linear and not f"{path}.".startswith(heads)
    ]
    try:
        with progress.bar("inputs of layers", len(dataset), "images") as bar:
            over_canvases(
                lambda canvases: model(images_on(device, canvases, built.preprocess)).cpu(),
                ViewDataset(dataset, built.preprocess),
                0,
                SMALL_BATCH,
                bar,
            )
    finally:
        for hook in hooks:
            hook.remove()
        model.cpu()
    return {path: moments.cpu() for path, moments in sums.items()}
