"""DINO: self-distillation with a moving teacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from edgevit.configs import Dino, EsVit
from edgevit.models.creation import BuiltModel
from edgevit.training.distributed import processes
from edgevit.training.loop.batches import Batch
from edgevit.training.loop.learner import Step
from edgevit.training.ssl import losses
from edgevit.training.ssl.heads import PrototypeHead
from edgevit.training.ssl.moving_teacher import WithMovingTeacher
from edgevit.training.ssl.self_supervised import JUDGED_AFTER, seeded, watched

LEAST_ENTROPY, LARGEST_ENTROPY = 0.02, 0.999
CENTER_AT_ITS_START = 0.1  # weight of the start in the moving mean


class DinoLearner(WithMovingTeacher):
    """DINO: the student gives each view the answer of the teacher for another global view (Caron et al. 2021).

    The teacher is the result, as in the paper.
    """

    center: Tensor
    watched_heads: ClassVar[tuple[str, ...]] = ("",)  # prefixes of the measures of a head
    advice = (
        "center_momentum 0.9, teacher_temperature from 0.02 to 0.07 and below student_temperature, a lower "
        "learning_rate, a larger batch_size"
    )

    def __init__(self, built: BuiltModel, config: Dino | EsVit, global_views: int, seed: int) -> None:
        super().__init__(built, config.momentum, seed)
        self.config, self.global_views = config, global_views
        with seeded(seed):
            self.add_teacher(PrototypeHead(self.width, config.prototypes, config.hidden, config.bottleneck))
        self.register_buffer("center", torch.zeros(config.prototypes))
        self._batch_mean, self._steps = self.center, 0

    def forward(self, batch: Batch) -> Step:
        embeddings = self.embeddings(self.model, batch.views)
        of_teacher, teacher = self.of_teacher(batch.views[: self.global_views])
        return self.compare(embeddings, teacher, of_teacher[0], batch.done)

    def compare(self, embeddings: Tensor, teacher: Tensor, of_teacher: Tensor, done: float) -> Step:
        """The loss of all views.

        Args:
            embeddings: the student's, (views, n, width).
            teacher: the outputs of the teacher's head for the global views, (global views, n, prototypes).
            of_teacher: the teacher's embeddings of the first view, (n, width).
            done: the share of the training before this batch.
        """
        student, temperature = self.head(embeddings, self.learns_prototypes(done)), self.teacher_temperature(done)
        loss = losses.dino_cross_entropy(student, teacher, self.center, self.config.student_temperature, temperature)
        self._batch_mean = processes.mean_over_ranks(teacher.mean((0, 1)))
        means = entropies(teacher[0], self.center, temperature)
        return Step(loss, means={**means, **watched(teacher[0], of_teacher)})

    def learns_prototypes(self, done: float) -> bool:
        """Whether the prototypes are trained; at the start they stay as they are."""
        return done >= self.config.fixed_prototypes

    def teacher_temperature(self, done: float) -> float:
        """It rises linearly over the first tenth of the training."""
        first, last = min(0.04, self.config.teacher_temperature), self.config.teacher_temperature
        return first + (last - first) * min(1.0, 10 * done)

    def result(self) -> nn.Module:
        return self.teacher

    def after_step(self, step: int, total: int) -> None:
        """Move the teacher, and the center (eq. 4)."""
        super().after_step(step, total)
        self._steps = step
        self.center.lerp_(self._batch_mean, 1 - self.config.center_momentum)

    def check(self, means: Mapping[str, float], done: float, where: str) -> None:
        if done >= JUDGED_AFTER and self._center_has_settled():
            self._check_entropies(means, where)
        super().check(means, done, where)

    def _check_entropies(self, means: Mapping[str, float], where: str) -> None:
        for prefix in self.watched_heads:
            mean, single = means[f"{prefix}entropy_of_mean"], means[f"{prefix}entropy"]
            if mean < LEAST_ENTROPY:
                name = f"{prefix}entropy_of_mean"
                raise self.collapsed("one answer for all images", f"{name} over {LEAST_ENTROPY:g}", where)
            if single > LARGEST_ENTROPY:
                name = f"{prefix}entropy"
                raise self.collapsed("a uniform answer for all images", f"{name} below {LARGEST_ENTROPY:g}", where)

    def _center_has_settled(self) -> bool:
        """Whether the center has left its start at 0, or is to stay there. Before, one prototype may lead by chance."""
        momentum = self.config.center_momentum
        return momentum == 1 or momentum**self._steps < CENTER_AT_ITS_START


def entropies(teacher: Tensor, center: Tensor, temperature: float, prefix: str = "") -> dict[str, Tensor]:
    """The mean entropy of a teacher's answers, and the entropy of their mean over all ranks, over the largest value.

    Args:
        teacher: the outputs of a head, (n, prototypes).
    """
    answers = ((teacher - center) / temperature).softmax(-1)
    return {
        f"{prefix}entropy": losses.entropy(answers).mean(),
        f"{prefix}entropy_of_mean": losses.entropy(processes.mean_over_ranks(answers.mean(0))),
    }
