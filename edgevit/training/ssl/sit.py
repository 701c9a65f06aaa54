"""SiT: reconstruct a corrupted image, tell its rotation, and tell images apart."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgevit.configs import Sit
from edgevit.inference.precision import autocast
from edgevit.models.creation import BuiltModel
from edgevit.training.distributed import processes
from edgevit.training.loop.batches import Batch
from edgevit.training.loop.learner import Step
from edgevit.training.ssl import losses
from edgevit.training.ssl.feature_maps import features_of, regions_of
from edgevit.training.ssl.heads import TokenDecoder, projector
from edgevit.training.ssl.mae import plain_vit
from edgevit.training.ssl.rotation import TURNS, rotated
from edgevit.training.ssl.self_supervised import SelfSupervised, seeded, watched

FACTORS = (0.5, 1.0, 1.0)  # of the tasks: a regression and two classifications (Kendall et al. 2018)
GROUP = 2  # patches side by side that are corrupted together, in rows and in columns


class SitLearner(SelfSupervised):
    """SiT: a plain ViT with three tasks, whose weights are trained (Atito et al. 2021, section 3).

    Each of two views is turned by a random number of quarters, and groups of its patches are replaced by noise or by
    patches of another image. The tasks are the pixels before the replacement (L1), the turn, and the other view of the
    image (NT-Xent). The paper has a token for each of the two last tasks; here both heads read the embedding, because
    the backbone stays one of timm.
    """

    advice = "color changes in augmentation (color_jitter, grayscale), a larger batch_size, a lower learning_rate"

    def __init__(self, built: BuiltModel, config: Sit, seed: int) -> None:
        super().__init__(built, seed)
        vit = plain_vit(self.model, "sit")
        self.config, self.patch, self.grid = config, vit.patch_embed.patch_size, vit.patch_embed.grid_size
        with seeded(seed):
            self.projector = projector([self.width, self.width, config.dimensions])
            self.turns = nn.Linear(self.width, TURNS)
            self.decoder = TokenDecoder(vit.embed_dim, 3 * self.patch[0] * self.patch[1])
        self.log_variances = nn.Parameter(torch.zeros(3))

    def forward(self, batch: Batch) -> Step:
        count = len(batch.samples)
        images = torch.cat([self.images_of(view) for view in batch.views])
        turns = torch.randint(TURNS, (len(images),), device=images.device)
        images = rotated(images, turns)
        with autocast(images.device, self.precision):
            features = features_of(self.model, self.corrupted(images))
            pixels = self.decoder(regions_of(self.model, features))
        embedding = features.embedding.float()
        outputs = self.projector(embedding).view(2, count, -1)
        tasks = Tasks(
            functional.l1_loss(pixels.float(), losses.patches_of(images, self.patch)),
            functional.cross_entropy(self.turns(embedding), turns),
            self._contrastive(outputs, batch.samples),
        )
        means = {f"{name}_loss": loss.detach() for name, loss in tasks._asdict().items()}
        loss = losses.weighted_by_uncertainty(tasks, self.log_variances, FACTORS)
        return Step(loss, means={**means, **watched(outputs[0], embedding[:count])})

    def corrupted(self, images: Tensor) -> Tensor:
        """Images (n, 3, H, W) with the share `corrupted` of their groups of patches replaced.

        A half of these groups is noise; the other half is of the image before in the batch.
        """
        rows, columns = (-(-places // GROUP) for places in self.grid)
        order = torch.rand(len(images), rows * columns, device=images.device).argsort(1).argsort(1)
        replaced = round(self.config.corrupted * rows * columns)
        noise, other = (
            self._pixels_of(is_chosen, rows, columns)
            for is_chosen in (order < replaced // 2, (order >= replaced // 2) & (order < replaced))
        )
        images_with_noise = torch.where(noise, torch.randn_like(images), images)
        return torch.where(other, images.roll(1, 0), images_with_noise)

    def _pixels_of(self, groups: Tensor, rows: int, columns: int) -> Tensor:
        """A mask of pixels (n, 1, H, W) from a mask of groups of patches (n, rows · columns)."""
        high, wide = (GROUP * side for side in self.patch)
        pixels = groups.view(-1, 1, rows, columns).repeat_interleave(high, 2).repeat_interleave(wide, 3)
        return pixels[..., : self.grid[0] * self.patch[0], : self.grid[1] * self.patch[1]]

    def _contrastive(self, outputs: Tensor, samples: Tensor) -> Tensor:
        of_all_ranks = processes.gathered_rows(outputs.transpose(0, 1)).transpose(0, 1)
        samples, first = processes.gathered_rows(samples), processes.rank() * outputs.shape[1]
        return losses.nt_xent(outputs, of_all_ranks, samples, first, self.config.temperature)


class Tasks(NamedTuple):
    """The losses of the tasks."""

    reconstruction: Tensor
    rotation: Tensor
    contrastive: Tensor
