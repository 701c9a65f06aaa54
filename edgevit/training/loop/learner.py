"""The learner: what a training computes from a batch, and the state that it keeps beside the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from edgevit.artifacts import Preprocess
from edgevit.configs import Training
from edgevit.data.transforms import normalize
from edgevit.inference.precision import Precision, autocast
from edgevit.training.loop.batches import Batch


class Step(NamedTuple):
    """What a learner computes from a batch, or from a part of it.

    Attributes:
        loss: the mean over the samples, a scalar with gradients.
        right: the number of labelled samples whose label is the model's answer; None without a classifier.
        labelled: the number of labelled samples; None without a classifier.
        means: further means over the samples by their names in the log, scalars without gradients.
    """

    loss: Tensor
    right: Tensor | None = None
    labelled: Tensor | None = None
    means: Mapping[str, Tensor] = {}


Validate = Callable[[nn.Module], dict[str, float]]  # numbers of a trained module by their names in the log


class Learner(nn.Module):
    """A model with its loss. DDP wraps the learner; FSDP shards its `model`.

    All parameters and buffers are saved in `last.pt`. So a moving teacher, a center or a queue resumes to equal bits
    if it is a submodule or a buffer. Modules that do not belong to the state, such as the teacher of a distillation,
    stay outside of the module tree.

    Args:
        model: the module to train, with a timm model inside.
        preprocess: the model's preprocessing of views.

    Attributes:
        takes_parts: whether the mean of the losses of a batch's parts is the loss of the batch.
        precision: of the forward pass; `fit` sets it.
    """

    takes_parts = True

    def __init__(self, model: nn.Module, preprocess: Preprocess) -> None:
        super().__init__()
        self.model, self.preprocess = model, preprocess
        self.precision: Precision = "float32"
        self._layout = torch.contiguous_format
        self._compiled: Callable[[Tensor], Any] | None = None

    def forward(self, batch: Batch) -> Step:
        """The loss of a batch on the model's device."""
        raise NotImplementedError

    def after_step(self, step: int, total: int) -> None:
        """Change the state after the optimizer's update number `step`, from 1, of `total`. By default, nothing."""

    def check(self, means: Mapping[str, float], done: float, where: str) -> None:
        """Judge a row of the log: `Step.means` over the steps of the row, with the share `done` of the training done.

        Raises TrainingError, with `where`, to stop the training.
        """

    def result(self) -> nn.Module:
        """The module that is validated. It has the weights of the result."""
        return self.model

    def stripped(self, module: nn.Module) -> nn.Module:
        """The part of `result()`, or of its moving average, that is saved."""
        return module

    def compute_as(self, config: Training, precision: Precision) -> None:
        """Take precision, memory layout and compilation of the forward pass from a stage."""
        self.precision = precision
        self._layout = torch.channels_last if config.channels_last else torch.contiguous_format
        self._compiled = torch.compile(self.model) if config.compile else None

    def outputs_for(self, view: Tensor) -> Any:
        """The model's outputs, under autocast, for a view (N, H, W, 3) that is resized to the model's input."""
        images = normalize(view, self.preprocess).contiguous(memory_format=self._layout)
        with autocast(images.device, self.precision):
            return (self.model if self._compiled is None else self._compiled)(images)
