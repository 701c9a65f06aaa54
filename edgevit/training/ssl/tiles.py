"""Tiles of images, for jigsaw puzzles."""

from __future__ import annotations

from itertools import permutations

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgevit.models.timm_models import timm_model

TILE_OF_CELL = 64 / 75  # Noroozi and Favaro 2016: a tile of 64 pixels at a random place in a cell of 75
CANDIDATES = 5_000
LONGEST_LISTED = 7  # places; all their permutations are few enough to list


def tile_side(model: nn.Module, grid: int, size: int) -> int:
    """The side of a tile in pixels, for images of side `size` in `grid` × `grid` cells.

    It is rounded up to whole patches of a ViT, or to a multiple of 16.
    """
    patch = getattr(getattr(timm_model(model), "patch_embed", None), "patch_size", None)
    step = int(patch[0]) if isinstance(patch, (tuple, list)) else 16
    return -(-max(1, round(TILE_OF_CELL * size / grid)) // step) * step


def tiles_of(images: Tensor, grid: int, side: int) -> Tensor:
    """The tiles of images (n, 3, H, H), row by row: (n, grid², 3, side, side).

    Each tile lies at a random place in its cell, and has mean 0 and variance 1 in each channel, so that neither edges
    nor colors show which tiles are neighbors. The places are the same for all images.
    """
    cell = images.shape[-1] // grid
    cut = max(1, round(TILE_OF_CELL * cell))
    shifts = torch.randint(cell - cut + 1, (grid * grid, 2)).tolist()
    tiles = []
    for number, (down, right) in enumerate(shifts):
        top, left = number // grid * cell + down, number % grid * cell + right
        tile = images[:, :, top : top + cut, left : left + cut]
        tiles.append(functional.interpolate(tile, size=(side, side), mode="bilinear", align_corners=False))
    stacked = torch.stack(tiles, 1)
    variance, mean = torch.var_mean(stacked, (-2, -1), keepdim=True)
    return (stacked - mean) / (variance + 1e-6).sqrt()


def distant_permutations(places: int, count: int, seed: int) -> Tensor:
    """`count` permutations of `places` that differ from each other in many places, (count, places).

    Each next permutation has the largest Hamming distance from the closest one before it (Noroozi and Favaro 2016,
    algorithm 1, with the smallest distance in place of the mean). Candidates are all permutations, or 5,000 at random.
    """
    generator = torch.Generator().manual_seed(seed)
    if places < LONGEST_LISTED:
        candidates = torch.tensor(list(permutations(range(places))))
        candidates = candidates[torch.randperm(len(candidates), generator=generator)]
    else:
        candidates = torch.rand(CANDIDATES, places, generator=generator).argsort(1)
    chosen, distance = [candidates[0]], torch.full((len(candidates),), places + 1)
    while len(chosen) < count:
        distance = torch.minimum(distance, (candidates != chosen[-1]).sum(1))
        chosen.append(candidates[int(distance.argmax())])
    return torch.stack(chosen)
