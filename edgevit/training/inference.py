"""What a model says about a data set: for validation while training, and for features and pseudo-labels."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from edgevit.artifacts import Preprocess
from edgevit.configs import Augmentation
from edgevit.data.dataset import Dataset
from edgevit.data.loading import ViewDataset
from edgevit.data.transforms import normalise
from edgevit.errors import DataError


def accuracy(
    model: nn.Module, dataset: Dataset, preprocess: Preprocess, device: torch.device, batch_size: int = 64
) -> float:
    """The share of a labelled data set that the model, in eval mode, gets right."""
    if dataset.labels is None:
        raise DataError("accuracy needs labels", where=dataset.name)
    predicted = outputs_of(model, dataset, preprocess, device, batch_size).argmax(-1)
    return float((predicted == torch.from_numpy(dataset.labels)).float().mean())


@torch.no_grad()
def outputs_of(
    model: nn.Module,
    dataset: Dataset,
    preprocess: Preprocess,
    device: torch.device,
    batch_size: int = 64,
    augmentation: Augmentation | None = None,
    view: int = 0,
    seed: int = 0,
) -> Tensor:
    """The outputs (samples, …) on the CPU of the model, in eval mode, for a data set in its order.

    With an augmentation, for view number `view` of each sample.
    """
    was_training = model.training
    model.eval()
    views = ViewDataset(dataset, preprocess, augmentation, seed)
    outputs = [
        model(normalise(canvases.to(device), preprocess)).cpu() for canvases in _canvases(views, view, batch_size)
    ]
    model.train(was_training)
    return torch.cat(outputs)


def _canvases(views: ViewDataset, view: int, batch_size: int) -> Iterator[Tensor]:
    for start in range(0, len(views), batch_size):
        yield torch.stack([views[0, view, index][0] for index in range(start, min(start + batch_size, len(views)))])
