"""`method: auto`: the method that suits a backbone, its images, the batch and the device, and the time of an epoch."""

from __future__ import annotations

import math
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Literal, NamedTuple, get_args

from torch import nn

from edgevit.configs import Moco, Pretrain
from edgevit.context import Context
from edgevit.progress import SilentProgress
from edgevit.training.loop.batches import TrainingStream
from edgevit.training.loop.fit import fit
from edgevit.training.ssl.feature_maps import has_prefix_tokens
from edgevit.training.ssl.self_supervised import SelfSupervised

SuitedMethod = Literal["dino", "moco", "simclr"]
SUITED: tuple[SuitedMethod, ...] = get_args(SuitedMethod)  # the methods that `auto` chooses from
SMALL_BATCH = 256  # images; a batch of this size has enough negatives (Chen et al. 2020, figure 9)
IMAGES_PER_KEY = 4  # of a queue: it then seldom holds a key of the query's own image
STEPS_TIMED = 4  # after one step that warms up


class Choice(NamedTuple):
    """A method and the reason for it."""

    method: SuitedMethod
    reason: str


def suited_method(model: nn.Module, images: int, batch_size: int, device: str) -> Choice:
    """The method that suits a backbone, a number of images, a batch and a device: rules of thumb, not measured.

    All of them fit any backbone, and their features suit a classifier that few labels train.
    """
    queue = Moco().queue
    if device != "cpu" and has_prefix_tokens(model):
        return Choice("dino", "the backbone has a class token, and a GPU computes its many views fast")
    if batch_size < SMALL_BATCH and images >= IMAGES_PER_KEY * queue:
        return Choice("moco", f"a batch of {batch_size} has few negatives, and {images} images fill a queue of {queue}")
    if batch_size < SMALL_BATCH:
        return Choice("simclr", f"two views are computed fast, and {images} images are too few for a queue of {queue}")
    return Choice("simclr", f"two views are computed fast, and a batch of {batch_size} has enough negatives")


def with_method(config: Pretrain, method: str) -> Pretrain:
    """The stage with a method by its name in place of `auto`, with the views and random changes of the method."""
    given = config.model_dump(exclude={"method", "views", "augmentation"})
    augmentation = config.augmentation.model_dump(exclude_unset=True)
    is_given = config.augmentation != type(config).model_fields["augmentation"].default
    return Pretrain.model_validate({**given, "method": method, **({"augmentation": augmentation} if is_given else {})})


def epoch_seconds(learner: SelfSupervised, stream: TrainingStream, config: Pretrain, context: Context) -> float:
    """The time of an epoch in seconds, from a few steps of this training. The learner's weights change.

    All ranks have to call it.
    """
    clock = _StepClock(STEPS_TIMED + 1)
    steps = math.ceil((STEPS_TIMED + 1) * config.batch_size / len(stream.dataset))
    short = config.model_copy(update={"epochs": max(config.epochs, steps), "ema_decay": None})
    with tempfile.TemporaryDirectory(prefix="edgevit-") as folder:
        quiet = replace(context, work=Path(folder), tensorboard=None, progress=SilentProgress(), shard=False)
        fit(learner, [stream], short, quiet, out=Path(folder), views=config.views, ends=clock.ends)
    return clock.median_s() * len(stream.dataset) / config.batch_size


@dataclass
class _StepClock:
    """The times at which the steps of a training end; the training ends after `steps` of them."""

    steps: int
    ended: list[float] = field(default_factory=list)

    def ends(self, loss: float) -> bool:
        self.ended.append(time.monotonic())
        return len(self.ended) >= self.steps

    def median_s(self) -> float:
        return median(after - before for before, after in zip(self.ended, self.ended[1:], strict=False))
