"""EsViT: DINO on whole views, and on the best matching regions of two views."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edgevit.configs import EsVit
from edgevit.errors import RecipeError
from edgevit.models.creation import BuiltModel
from edgevit.models.timm_models import timm_model
from edgevit.training.distributed import processes
from edgevit.training.loop.batches import Batch
from edgevit.training.loop.learner import Step
from edgevit.training.ssl import losses
from edgevit.training.ssl.dino import DinoLearner, entropies
from edgevit.training.ssl.heads import PrototypeHead
from edgevit.training.ssl.self_supervised import seeded

REGION = "region_"  # prefix of the measures of the regions' head


class EsVitLearner(DinoLearner):
    """EsViT: each region of a view learns the answer of the teacher for the most similar region of another view.

    The loss is that of DINO plus that of the regions, with a head and a center of their own (Li et al. 2022, section
    3.2). The regions are the places of the last feature map. The teacher is the result.
    """

    reads_regions = True
    watched_heads = ("", REGION)
    region_center: Tensor

    def __init__(self, built: BuiltModel, config: EsVit, global_views: int, seed: int) -> None:
        super().__init__(built, config, global_views, seed)
        if self.regions < 2:
            raise RecipeError(
                "esvit matches the regions of two views, and the last feature map has one region",
                got=f"{type(timm_model(built.module)).__name__}, {self.preprocess.height} px",
                next="a larger image_size, or method: dino",
            )
        with seeded(seed):
            self.region_head = PrototypeHead(self.channels, config.prototypes, config.hidden, config.bottleneck)
        self.teacher_region_head = self.copy_of(self.region_head)
        self.pairs.append((self.teacher_region_head, self.region_head))
        self.register_buffer("region_center", torch.zeros(config.prototypes))
        self._mean_of_regions = self.region_center

    def forward(self, batch: Batch) -> Step:
        embeddings, regions = self.features(self.model, batch.views)
        with torch.no_grad():
            self.set_teacher_modes()
            of_teacher, teacher_regions = self.features(self.teacher, batch.views[: self.global_views])
            teacher = self.teacher_head(of_teacher)
        step = self.compare(embeddings, teacher, of_teacher[0], batch.done)
        with torch.no_grad():
            logits = [self.teacher_region_head(view.float()) for view in teacher_regions]
        of_regions = self._region_loss(regions, teacher_regions, logits, batch.done)
        of_answers = entropies(
            logits[0].flatten(0, 1), self.region_center, self.teacher_temperature(batch.done), REGION
        )
        losses_of = {"view_loss": step.loss.detach(), "region_loss": of_regions.detach()}
        return Step(step.loss + of_regions, means={**step.means, **losses_of, **of_answers})

    def after_step(self, step: int, total: int) -> None:
        """Move the teacher and both centers."""
        super().after_step(step, total)
        self.region_center.lerp_(self._mean_of_regions, 1 - self.config.center_momentum)

    def _region_loss(
        self, regions: Sequence[Tensor], of_teacher: Sequence[Tensor], logits: Sequence[Tensor], done: float
    ) -> Tensor:
        means = torch.stack([view.mean((0, 1)) for view in logits])
        self._mean_of_regions = processes.mean_over_ranks(means.mean(0))
        terms = []
        for number, view in enumerate(regions):
            student = self.region_head(view.float(), self.learns_prototypes(done))
            terms += [
                losses.region_cross_entropy(
                    student, logits[other], view.float(), of_teacher[other].float(), self.region_center,
                    self.config.student_temperature, self.teacher_temperature(done),
                )
                for other in range(len(of_teacher)) if other != number
            ]  # fmt: skip
        return torch.stack(terms).mean()
