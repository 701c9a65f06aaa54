"""PIRL: an image and its jigsaw puzzle find the memory of the image among memories of others."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from edgevit.configs import Pirl
from edgevit.models.creation import BuiltModel
from edgevit.training.distributed import processes
from edgevit.training.loop.batches import Batch
from edgevit.training.loop.learner import Step
from edgevit.training.ssl import losses
from edgevit.training.ssl.heads import TileHead, projector
from edgevit.training.ssl.jigsaw import Puzzles
from edgevit.training.ssl.self_supervised import seeded, watched


class PirlLearner(Puzzles):
    """PIRL: the output for an image and that for its puzzle both find the image's memory (Misra et al. 2020).

    The memory holds a moving average of the output for each image (section 3.2). It begins with the first output:
    random memories would teach noise in the first epochs. The tiles of a puzzle come in a random order. The first view
    is the image, the second makes the puzzle.

    Args:
        images: the number of images.
    """

    memory: Tensor
    advice = "color changes in augmentation (color_jitter, grayscale), more negatives, a lower learning_rate"

    def __init__(self, built: BuiltModel, config: Pirl, images: int, seed: int) -> None:
        super().__init__(built, config.grid, seed)
        self.config = config
        with seeded(seed):
            self.projector = projector([self.width, config.dimensions])
            self.tile_head = TileHead(self.width, self.tiles, config.dimensions, config.dimensions)
        self.register_buffer("memory", torch.zeros(images, config.dimensions))
        self._outputs, self._samples = self.memory[:0], torch.zeros(0, dtype=torch.int64)

    def forward(self, batch: Batch) -> Step:
        embeddings = self.embeddings(self.model, batch.views[:1])[0]
        outputs: Tensor = self.projector(embeddings)
        puzzle = self.images_of(batch.views[1])
        order = torch.rand(len(puzzle), self.tiles, device=puzzle.device).argsort(1)
        of_puzzle: Tensor = self.tile_head(self.embeddings_of_tiles(puzzle, order))
        self._outputs = processes.gathered_rows(functional.normalize(outputs.detach(), dim=1))
        self._samples = processes.gathered_rows(batch.samples)
        memories, negatives = self._memories(batch.samples, outputs), self._negatives(batch.samples)
        share, temperature = self.config.puzzle_share, self.config.temperature
        of_image = losses.noise_contrastive(outputs, memories, negatives, temperature)
        of_tiles = losses.noise_contrastive(of_puzzle, memories, negatives, temperature)
        return Step(share * of_tiles + (1 - share) * of_image, means=watched(outputs, embeddings))

    def after_step(self, step: int, total: int) -> None:
        """Move the memories of the batch's images; of an image that comes twice, by its first output."""
        samples, outputs = self._samples, self._outputs
        comes_again = (samples.unsqueeze(1) == samples).tril(-1).any(1)
        samples, outputs = samples[~comes_again], outputs[~comes_again]
        moved = self.memory[samples].lerp(outputs, 1 - self.config.memory_momentum)
        self.memory[samples] = functional.normalize(moved, dim=1)

    def _memories(self, samples: Tensor, outputs: Tensor) -> Tensor:
        """The memory of each sample, (n, dimensions); the output itself where the memory has not begun."""
        memories = self.memory[samples]
        return torch.where(memories.any(-1, keepdim=True), memories, functional.normalize(outputs.detach(), dim=1))

    def _negatives(self, samples: Tensor) -> Tensor:
        """Random memories for each sample, (n, negatives, dimensions). Its own, and those not yet begun, are zero."""
        size = (len(samples), min(self.config.negatives, len(self.memory)))
        drawn = torch.randint(len(self.memory), size, device=samples.device)
        is_own = drawn == samples.unsqueeze(1)
        return self.memory[drawn].masked_fill_(is_own.unsqueeze(-1), 0.0)
