"""Data sets, their roles, and preprocessing from an image to a model's input."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from edgevit.data.dataset import Dataset
from edgevit.data.images import read_image
from edgevit.data.preprocess import preprocess
from edgevit.data.roles import dataset_artifacts, open_dataset

if TYPE_CHECKING:
    from edgevit.data.loading import ViewDataset, epoch_order
    from edgevit.data.transforms import augment, normalize

__all__ = [
    "Dataset",
    "ViewDataset",
    "augment",
    "dataset_artifacts",
    "epoch_order",
    "normalize",
    "open_dataset",
    "preprocess",
    "read_image",
]

# These modules import torch. Reading a data set does not need torch.
_NEED_TORCH = {"ViewDataset": "loading", "epoch_order": "loading", "augment": "transforms", "normalize": "transforms"}


def __getattr__(name: str) -> Any:
    if name not in _NEED_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_NEED_TORCH[name]}"), name)
