"""Validation of a model after each epoch of its training."""

from __future__ import annotations

import torch
from torch import nn

from edgevit.artifacts import Preprocess
from edgevit.data.dataset import Dataset
from edgevit.inference.over_dataset import accuracy
from edgevit.training.loop.learner import Validate

VAL_TOP1 = "val_top1"


def top1_on(dataset: Dataset, preprocess: Preprocess, device: str, batch_size: int) -> Validate:
    """Validation by the accuracy on a labelled data set, `val_top1`, 0 to 1."""

    def validate(model: nn.Module) -> dict[str, float]:
        return {VAL_TOP1: accuracy(model, dataset, preprocess, torch.device(device), batch_size)}

    return validate
