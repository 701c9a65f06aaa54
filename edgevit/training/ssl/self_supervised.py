"""The base of the learners of pre-training: a backbone, the embeddings of its views, and the measures of collapse."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby

import torch
from torch import Tensor, nn

from edgevit.data.transforms import normalize
from edgevit.errors import TrainingError
from edgevit.inference.precision import autocast
from edgevit.models.creation import BuiltModel
from edgevit.training.distributed import processes
from edgevit.training.loop.batches import seed_of
from edgevit.training.loop.learner import Learner
from edgevit.training.ssl import losses
from edgevit.training.ssl.feature_maps import blank_features, features_of, regions_of

# Collapse is judged after this share of the training.
JUDGED_AFTER = 0.25
LEAST_SPREAD = 0.002


class SelfSupervised(Learner):
    """Base of the learners: a backbone that is trained, with heads that are dropped afterwards.

    Views keep their own sizes. Heads have initial weights drawn from `seed`.

    Attributes:
        width: channels of the embedding.
        regions, channels: size of the last feature map, for a method that reads it: its number of places, and its
            channels.
        reads_regions: whether the method reads the last feature map, which models that end in several maps lack.
    """

    takes_parts = False
    reads_regions = False
    advice = "a lower learning_rate, a larger batch_size"

    def __init__(self, built: BuiltModel, seed: int) -> None:
        super().__init__(built.module, built.preprocess)
        self.seed = seed
        blank = blank_features(self.model, (self.preprocess.height, self.preprocess.width))
        self.width = blank.embedding.shape[1]
        if self.reads_regions:
            self.regions, self.channels = regions_of(self.model, blank).shape[1:]

    def images_of(self, view: Tensor) -> Tensor:
        """A view (n, H, W, 3) as input (n, 3, H, W) of its own size."""
        size = {"height": view.shape[1], "width": view.shape[2]}
        return normalize(view, self.preprocess.model_copy(update=size)).contiguous(memory_format=self._layout)

    def embeddings(self, model: nn.Module, views: Sequence[Tensor]) -> Tensor:
        """The input of the classifier for each view (n, H, W, 3): (views, n, width) float32."""
        return self.features(model, views)[0]

    def features(self, model: nn.Module, views: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The embeddings of all views, and the regions of each view, (n, regions, channels), if the model has them.

        Successive views of one size pass through the model together.
        """
        embeddings: list[Tensor] = []
        regions: list[Tensor] = []
        for _, group in groupby(views, key=lambda view: view.shape):
            of_one_size = list(group)
            images = self.images_of(torch.cat(of_one_size))
            with autocast(images.device, self.precision):
                features = features_of(model, images)
            embeddings.append(features.embedding.float().view(len(of_one_size), -1, features.embedding.shape[-1]))
            if features.regions is not None:
                regions += features.regions.chunk(len(of_one_size))
        return torch.cat(embeddings), regions

    def check(self, means: Mapping[str, float], done: float, where: str) -> None:
        """Raise TrainingError if all outputs, or all embeddings, point in one direction."""
        for name in ("spread", "embedding_spread"):
            if done >= JUDGED_AFTER and means.get(name, 1.0) < LEAST_SPREAD:
                raise self.collapsed(f"{name} {means[name]:.2g}", f"{name} over {LEAST_SPREAD:g}", where)

    def collapsed(self, got: str, expected: str, where: str) -> TrainingError:
        """The error for outputs that no longer depend on the image."""
        return TrainingError(
            "pre-training collapsed: the outputs hardly depend on the image",
            where=where,
            got=got,
            expected=expected,
            next=self.advice,
        )


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Context in which initial weights of heads are drawn from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "heads"))
        yield


def watched(outputs: Tensor, embeddings: Tensor) -> dict[str, Tensor]:
    """The measures of collapse that every row of the log holds, over the samples of all ranks.

    Args:
        outputs: of a head, (n, dimensions).
        embeddings: of the backbone that is the result, (n, width).
    """
    outputs, embeddings = (processes.gathered_rows(rows.detach()) for rows in (outputs, embeddings))
    return {
        "spread": losses.spread(outputs),
        "rank": losses.rank(outputs),
        "embedding_spread": losses.spread(embeddings),
        "embedding_rank": losses.rank(embeddings),
    }
