"""Jigsaw: which permutation the tiles of an image have, a supervised pretext task."""

from __future__ import annotations

import torch
from torch import Tensor

from edgevit.configs import Jigsaw
from edgevit.inference.precision import autocast
from edgevit.models.creation import BuiltModel
from edgevit.training.loop.batches import Batch, seed_of
from edgevit.training.loop.learner import Step
from edgevit.training.ssl.feature_maps import features_of
from edgevit.training.ssl.heads import TileHead
from edgevit.training.ssl.rotation import step_of_classes
from edgevit.training.ssl.self_supervised import SelfSupervised, seeded
from edgevit.training.ssl.tiles import distant_permutations, tile_side, tiles_of


class Puzzles(SelfSupervised):
    """Base of the learners that see an image in tiles. Each tile passes through the backbone alone."""

    def __init__(self, built: BuiltModel, grid: int, seed: int) -> None:
        super().__init__(built, seed)
        self.grid, self.tiles = grid, grid * grid
        self.tile_side = tile_side(self.model, grid, self.preprocess.height)

    def embeddings_of_tiles(self, images: Tensor, order: Tensor) -> Tensor:
        """The embeddings (n, tiles, width) of the tiles of images (n, 3, H, H), in an order (n, tiles)."""
        tiles = tiles_of(images, self.grid, self.tile_side)
        shuffled = tiles[torch.arange(len(tiles), device=tiles.device).unsqueeze(1), order]
        with autocast(images.device, self.precision):
            embeddings = features_of(self.model, shuffled.flatten(0, 1)).embedding
        return embeddings.float().view(-1, self.tiles, self.width)


class JigsawLearner(Puzzles):
    """Jigsaw: a classifier tells the permutation of an image's tiles (Noroozi and Favaro 2016)."""

    takes_parts = True
    permutations: Tensor

    def __init__(self, built: BuiltModel, config: Jigsaw, seed: int) -> None:
        super().__init__(built, config.grid, seed)
        chosen = distant_permutations(self.tiles, config.permutations, seed_of(seed, "permutations"))
        self.register_buffer("permutations", chosen)
        with seeded(seed):
            self.classifier = TileHead(self.width, self.tiles, config.hidden, len(chosen))

    def forward(self, batch: Batch) -> Step:
        images = self.images_of(batch.views[0])
        classes = torch.randint(len(self.permutations), (len(images),), device=images.device)
        embeddings = self.embeddings_of_tiles(images, self.permutations[classes])
        return step_of_classes(self.classifier(embeddings), classes)
