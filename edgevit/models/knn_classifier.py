"""A classifier that remembers samples: k nearest neighbours as a layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgevit.artifacts import Frozen

LEAST_SHARE = 1e-6  # of a class that no neighbour votes for


class Neighbours(Frozen):
    """What builds the layer again but its tensors: how many samples it remembers, and how they vote."""

    samples: int
    k: int
    scale: float


class NearestNeighbours(nn.Module):
    """Features (N, dimensions) → logarithm of each class's share of the votes of the k nearest samples, (N, classes).

    Nearest by cosine of the directions from `centre`; a vote weighs exp(scale · cosine).
    """

    directions: Tensor
    votes: Tensor
    centre: Tensor

    def __init__(self, dimensions: int, num_classes: int, neighbours: Neighbours) -> None:
        super().__init__()
        self.in_features, self.neighbours = dimensions, neighbours
        self.register_buffer("directions", torch.zeros(neighbours.samples, dimensions))
        self.register_buffer("votes", torch.zeros(neighbours.samples, num_classes))
        self.register_buffer("centre", torch.zeros(dimensions))

    def forward(self, features: Tensor) -> Tensor:
        cosines = nn.functional.normalize(features - self.centre, dim=-1) @ self.directions.T
        nearest, places = cosines.topk(self.neighbours.k, dim=-1)
        weights = (self.neighbours.scale * (nearest - nearest[:, :1])).exp().unsqueeze(-1)
        votes = (weights * self.votes[places]).sum(1)
        return torch.log((votes / votes.sum(-1, keepdim=True)).clamp(min=LEAST_SHARE))
