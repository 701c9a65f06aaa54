"""BYOL: a predictor and a moving teacher, without negatives."""

from __future__ import annotations

import torch

from edgevit.configs import Byol
from edgevit.models.creation import BuiltModel
from edgevit.training.loop.batches import Batch
from edgevit.training.loop.learner import Step
from edgevit.training.ssl import losses
from edgevit.training.ssl.heads import projector
from edgevit.training.ssl.moving_teacher import WithMovingTeacher
from edgevit.training.ssl.self_supervised import seeded, watched


class ByolLearner(WithMovingTeacher):
    """BYOL: a predictor turns the output for one view into the teacher's output for the other (Grill et al. 2020).

    The student is the result (section 3.1). The heads normalize the batch of each view alone.
    """

    advice = "momentum from 0.99 to 0.999, a larger batch_size, a lower learning_rate"

    def __init__(self, built: BuiltModel, config: Byol, seed: int) -> None:
        super().__init__(built, config.momentum, seed)
        with seeded(seed):
            self.add_teacher(projector([self.width, config.hidden, config.dimensions], normalized=True))
            self.predictor = projector([config.dimensions, config.hidden, config.dimensions], normalized=True)

    def forward(self, batch: Batch) -> Step:
        embeddings = self.embeddings(self.model, batch.views)
        predicted = torch.stack([self.predictor(self.head(embedding)) for embedding in embeddings])
        _, target = self.of_teacher(batch.views)
        return Step(losses.byol_distance(predicted, target), means=watched(target[0], embeddings[0]))
