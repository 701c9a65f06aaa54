"""MoCo: negatives from a queue of earlier batches."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from edgevit.configs import Moco
from edgevit.models.creation import BuiltModel
from edgevit.training.distributed import processes
from edgevit.training.loop.batches import Batch
from edgevit.training.loop.learner import Step
from edgevit.training.ssl import losses
from edgevit.training.ssl.heads import projector
from edgevit.training.ssl.moving_teacher import WithMovingTeacher
from edgevit.training.ssl.self_supervised import seeded, watched

NO_SAMPLE = -1  # in place of a sample, beside a random key of a new queue


class MocoLearner(WithMovingTeacher):
    """MoCo: a query finds its key among the keys of earlier batches, which a queue holds (He et al. 2020).

    The projector is that of MoCo v2 (Chen et al. 2020). The teacher's momentum is constant. The student is the result.

    The paper shuffles batch normalization over GPUs: a query and its key would share batch statistics, which tell the
    key from those in the queue. Here the teacher normalizes by moving averages of the student's running statistics
    (Cai et al. 2021, EMAN). A key of the query's own image from an earlier pass is no negative.
    """

    papers_momentum = 0.999
    rises = False
    averages_statistics = True
    queue: Tensor
    queued_samples: Tensor
    advice = "momentum from 0.99 to 0.9999, a longer queue, a lower learning_rate"

    def __init__(self, built: BuiltModel, config: Moco, seed: int) -> None:
        super().__init__(built, config.momentum, seed)
        self.temperature = config.temperature
        with seeded(seed):
            self.add_teacher(projector([self.width, self.width, config.dimensions]))
            self.register_buffer("queue", functional.normalize(torch.randn(config.queue, config.dimensions), dim=1))
        self.register_buffer("queued_samples", torch.full((config.queue,), NO_SAMPLE))
        self._keys, self._samples = self.queue[:0], self.queued_samples[:0]

    def forward(self, batch: Batch) -> Step:
        embeddings = self.embeddings(self.model, batch.views[:1])[0]
        keys = self.of_teacher(batch.views[1:])[1][0]
        self._keys = processes.gathered_rows(functional.normalize(keys, dim=1))
        self._samples = processes.gathered_rows(batch.samples)
        is_own = batch.samples.unsqueeze(1) == self.queued_samples
        loss = losses.info_nce(self.head(embeddings), keys, self.queue, is_own, self.temperature)
        return Step(loss, means=watched(keys, embeddings))

    def after_step(self, step: int, total: int) -> None:
        """Move the teacher, and put the batch's keys in place of the oldest keys."""
        super().after_step(step, total)
        self.queue.copy_(torch.cat([self._keys, self.queue])[: len(self.queue)])
        self.queued_samples.copy_(torch.cat([self._samples, self.queued_samples])[: len(self.queue)])
