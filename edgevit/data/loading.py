"""Views of a data set for torch's DataLoader. They do not depend on the number of workers or on the order of access."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

from edgevit.artifacts import Preprocess
from edgevit.configs import Augmentation
from edgevit.data.dataset import Dataset, Indices
from edgevit.data.preprocess import fit_to_size
from edgevit.data.transforms import augment, view_key

UNLABELLED = -1


class ViewDataset(torch.utils.data.Dataset[tuple[Tensor, int, int]]):
    """Canvases of a data set's samples, addressed by (epoch, view, index).

    With an augmentation, a canvas is a function of (seed, epoch, view, index). Without an augmentation, it is the
    image resized by `fit_to_size`, in every epoch and view.

    Args:
        dataset: the data set.
        canvas: the size of the canvases; and, without an augmentation, how an image is resized. mean, std and
            normalised_inside are not used.
        augmentation: the random changes, or None.
        seed: the seed of the random changes.
    """

    def __init__(
        self, dataset: Dataset, canvas: Preprocess, augmentation: Augmentation | None = None, seed: int = 0
    ) -> None:
        self.dataset, self.canvas, self.augmentation, self.seed = dataset, canvas, augmentation, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, view: tuple[int, int, int]) -> tuple[Tensor, int, int]:
        """The canvas (height, width, 3) uint8, the label (UNLABELLED if there is none) and the sample's index."""
        epoch, view_number, index = view
        image = self.dataset.image(index)
        if self.augmentation is None:
            canvas = fit_to_size(image, **self.canvas.model_dump(exclude={"mean", "std", "normalised_inside"})).copy()
        else:
            key = view_key(self.seed, epoch, view_number, index)
            canvas = augment(image, self.augmentation, self.canvas.height, self.canvas.width, key)
        label = UNLABELLED if self.dataset.labels is None else int(self.dataset.labels[index])
        return torch.from_numpy(canvas), label, index


def epoch_order(seed: int, epoch: int, stream: int, n: int) -> Indices:
    """The order of a stream's `n` samples in an epoch: a permutation of 0..n-1, as a function of the arguments."""
    digest = hashlib.blake2b(f"order/{seed}/{epoch}/{stream}".encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "big")).permutation(n)
