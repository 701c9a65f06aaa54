"""What every data set looks like: samples known by id, with labels (or none), read one picture at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from edgevit.data.hashes import ImageState, ImageStates
from edgevit.data.images import Image, as_rgb

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
Labels = npt.NDArray[np.int64]
Indices = npt.NDArray[np.int64]


class Images(Protocol):
    """The pictures of a source, by position. Must pickle: loader workers get a copy. Threads read at once."""

    def __getitem__(self, index: int) -> Image:
        """Picture `index`, uint8 (H, W, 3), RGB. Raises DataError where it cannot be read."""
        ...

    def states(self, indices: Sequence[int], known: ImageStates) -> list[ImageState]:
        """A hash of the content of each of these pictures, and whether it can be read."""
        ...


@dataclass(frozen=True, eq=False)
class Source:
    """All samples of a data set in a fixed order, whatever their role.

    Attributes:
        classes: class names; a label is an index into them.
        ids: the id of each sample, unique and stable: a relative path, or a name made of its index.
        labels: (n,) int64, or None where the source has none.
        splits: the split that each sample belongs to.
        images: their pictures.
        notes: what a user should know about how the source was read.
    """

    classes: tuple[str, ...]
    ids: tuple[str, ...]
    labels: Labels | None
    splits: tuple[Split, ...]
    images: Images
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Dataset:
    """The samples of one role, such as "digits.support".

    Attributes:
        name: data set and role.
        classes: class names; a label is an index into them. Some may have no sample in this role.
        sample_ids: one for each sample.
        labels: (n,) int64, or None where this role hides them.
        images, indices: the pictures of the whole source, and which of them these samples are.
    """

    name: str
    classes: tuple[str, ...]
    sample_ids: tuple[str, ...]
    labels: Labels | None
    images: Images
    indices: Indices

    def __len__(self) -> int:
        return len(self.sample_ids)

    def image(self, index: int) -> Image:
        """Sample `index`, uint8 (H, W, 3), RGB."""
        return self.images[int(self.indices[index])]

    def subset(self, positions: Indices) -> Dataset:
        """The samples at these positions, in this order, under the same name and with the same classes."""
        return replace(
            self,
            sample_ids=tuple(self.sample_ids[position] for position in positions),
            labels=None if self.labels is None else self.labels[positions],
            indices=self.indices[positions],
        )

    def shuffled(self, seed: int) -> Indices:
        """Every position once, in an order drawn by a seed: the first of them are a draw of any size."""
        return np.random.default_rng(seed).permutation(len(self))

    def sample(self, count: int, seed: int) -> Dataset:
        """So many samples drawn by a seed, in their order; all where there are no more."""
        return self.subset(np.sort(self.shuffled(seed)[:count]))


@dataclass(frozen=True, eq=False)
class ArrayImages:
    """Pictures in memory, uint8 (n, H, W), (n, H, W, 1) or (n, H, W, 3)."""

    pixels: npt.NDArray[np.uint8]

    def __getitem__(self, index: int) -> Image:
        return as_rgb(self.pixels[index])

    def states(self, indices: Sequence[int], known: ImageStates) -> list[ImageState]:
        return [ImageState(hashlib.sha256(self.pixels[index].tobytes()).hexdigest()) for index in indices]


@dataclass(frozen=True, eq=False)
class SubsetImages:
    """Some pictures of another source, by their positions in it."""

    images: Images
    positions: Indices

    def __getitem__(self, index: int) -> Image:
        return self.images[int(self.positions[index])]

    def states(self, indices: Sequence[int], known: ImageStates) -> list[ImageState]:
        return self.images.states(self.positions[indices].tolist(), known)
