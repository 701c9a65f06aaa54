"""How many images a training sees in an epoch, and how long they take on this machine, from a few timed steps."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from statistics import median

import torch
from torch import nn

from edgevit.artifacts import Artifact
from edgevit.configs import Distill, Train
from edgevit.context import Context
from edgevit.models import open_checkpoint
from edgevit.progress import SilentProgress
from edgevit.training.loop.batches import Batch
from edgevit.training.loop.learner import Step
from edgevit.training.loop.lr_finder import range_test
from edgevit.training.loop.setup import distillation_setup, supervised_setup

TIMED_BATCH = 4  # on a CPU, where the time of an image hardly depends on the batch; a GPU takes the stage's own batch
TIMED_STEPS = 4  # the first one is not counted


def seconds_per_image(config: Train | Distill, inputs: Mapping[str, Artifact], context: Context) -> float:
    """Time of one training image in seconds: decoding, augmentation, teacher and student. Nothing is kept.

    Args:
        inputs: the data sets, with the checkpoints that the stage refers to. Their weights may be random.
    """
    batch = TIMED_BATCH if context.device == "cpu" else config.batch_size
    short = config.model_copy(update={"batch_size": batch, "epochs": 1, "learning_rate_batch": None})
    quiet = replace(context, progress=SilentProgress(), workers=0)
    if isinstance(short, Distill):
        setup = distillation_setup(short, inputs, quiet)[0]
    else:
        setup = supervised_setup(short, inputs)
    times_s = list[float]()

    def note(learner: nn.Module, batches: tuple[Batch], step: Step) -> None:
        float(step.loss.detach())  # waits for the device
        times_s.append(time.perf_counter())

    setup.learner.register_forward_hook(note)
    range_test(setup, short, quiet, steps=TIMED_STEPS)
    steps_s = [later - earlier for earlier, later in pairwise(times_s)]
    return median(steps_s[1:] or steps_s) / batch


def images_of_epoch(config: Train | Distill, datasets: Mapping[str, Artifact]) -> float:
    """The number of images in an epoch: those of the first stream, with the others' shares of the batches.

    Args:
        datasets: by the names that the stage refers to.
    """
    if isinstance(config, Distill):
        first, share = config.streams[0].data, config.streams[0].share
    else:
        first, share = config.data, 1.0
    images: int = datasets[first].metrics["images"]
    return images / share


def seconds_per_answer(model: Artifact, context: Context) -> float:
    """Time of one image through a checkpoint in seconds, without decoding."""
    built = open_checkpoint(model)
    images = torch.zeros(TIMED_BATCH, 3, built.preprocess.height, built.preprocess.width, device=context.device)
    module, times_s = built.module.to(context.device), list[float]()
    with torch.inference_mode():
        for _ in range(TIMED_STEPS):
            start = time.perf_counter()
            float(module(images).sum())  # waits for the device
            times_s.append(time.perf_counter() - start)
    return median(times_s[1:]) / TIMED_BATCH
