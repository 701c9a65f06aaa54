"""SimCLR: views of one image attract each other, views of other images repel."""

from __future__ import annotations

from torch import Tensor

from edgevit.configs import SimClr
from edgevit.models.creation import BuiltModel
from edgevit.training.distributed import processes
from edgevit.training.loop.batches import Batch
from edgevit.training.loop.learner import Step
from edgevit.training.ssl import losses
from edgevit.training.ssl.heads import projector
from edgevit.training.ssl.self_supervised import SelfSupervised, seeded, watched


class SimClrLearner(SelfSupervised):
    """SimCLR: two views of an image attract each other, and views of other images repel (Chen et al. 2020).

    The projector has no batch normalization. On several ranks, the images of all ranks repel each other.
    """

    advice = "color changes in augmentation (color_jitter, grayscale), a larger batch_size, a lower learning_rate"

    def __init__(self, built: BuiltModel, config: SimClr, seed: int) -> None:
        super().__init__(built, seed)
        self.temperature = config.temperature
        with seeded(seed):
            self.projector = projector([self.width, self.width, config.dimensions])

    def forward(self, batch: Batch) -> Step:
        embeddings = self.embeddings(self.model, batch.views)
        own: Tensor = self.projector(embeddings)
        of_all_ranks = processes.gathered_rows(own.transpose(0, 1)).transpose(0, 1)
        samples = processes.gathered_rows(batch.samples)
        loss = losses.nt_xent(own, of_all_ranks, samples, processes.rank() * own.shape[1], self.temperature)
        return Step(loss, means=watched(own[0], embeddings[0]))
