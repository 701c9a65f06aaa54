"""Rotation: which of four rotations an image has, a supervised pretext task."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgevit.inference.precision import autocast
from edgevit.models.creation import BuiltModel
from edgevit.training.loop.batches import Batch
from edgevit.training.loop.learner import Step
from edgevit.training.ssl.feature_maps import features_of
from edgevit.training.ssl.self_supervised import SelfSupervised, seeded

TURNS = 4


class RotationLearner(SelfSupervised):
    """Rotation: each image in all four rotations; a linear classifier tells them apart (Gidaris et al. 2018, eq. 2)."""

    takes_parts = True

    def __init__(self, built: BuiltModel, seed: int) -> None:
        super().__init__(built, seed)
        with seeded(seed):
            self.classifier = nn.Linear(self.width, TURNS)

    def forward(self, batch: Batch) -> Step:
        images = self.images_of(batch.views[0])
        turns = torch.arange(TURNS, device=images.device).repeat_interleave(len(images))
        with autocast(images.device, self.precision):
            embedding = features_of(self.model, rotated(images.repeat(TURNS, 1, 1, 1), turns)).embedding
        return step_of_classes(self.classifier(embedding.float()), turns)


def step_of_classes(logits: Tensor, classes: Tensor) -> Step:
    """The cross-entropy of a pretext task, with its accuracy in the log.

    Args:
        logits: (n, classes).
        classes: the right answers, (n,).
    """
    right = (logits.argmax(-1) == classes).float().mean()
    return Step(functional.cross_entropy(logits, classes), means={"pretext_top1": right})


def rotated(images: Tensor, turns: Tensor) -> Tensor:
    """Square images (n, 3, H, H), each rotated counter-clockwise by its number of quarter turns, (n,)."""
    for quarter in range(1, TURNS):
        images = torch.where((turns == quarter).view(-1, 1, 1, 1), images.rot90(quarter, (2, 3)), images)
    return images
