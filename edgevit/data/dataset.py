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
from edgevit.errors import DataError

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
Labels = npt.NDArray[np.int64]
Indices = npt.NDArray[np.int64]


class Images(Protocol):
    """The pictures of a source, by position. Must pickle: loader workers get a copy. Threads read at once."""

    def content(self, index: int) -> bytes:
        """The bytes of picture `index`, which its hash is taken of. Raises DataError if they cannot be read."""
        ...

    def decoded(self, content: bytes, index: int) -> Image:
        """Picture `index` from its bytes, uint8 (H, W, 3), RGB. Raises DataError where they are no picture."""
        ...

    def place(self, index: int) -> str:
        """Where picture `index` lies. Two data sets that read one picture call its place the same."""
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
        sha256: (n, 32) uint8, the hash that each picture's content must have; None where nothing was hashed.
    """

    name: str
    classes: tuple[str, ...]
    sample_ids: tuple[str, ...]
    labels: Labels | None
    images: Images
    indices: Indices
    sha256: npt.NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        return len(self.sample_ids)

    def image(self, index: int) -> Image:
        """Sample `index`, uint8 (H, W, 3), RGB.

        Raises DataError where it cannot be read, or is no longer the picture that the data set's key was made of.
        """
        position = int(self.indices[index])
        content = self.images.content(position)
        if self.sha256 is not None and hashlib.sha256(content).digest() != self.sha256[index].tobytes():
            raise DataError(
                "the picture was changed while it was in use",
                where=self.images.place(position),
                next=f"let nothing write into {self.name} while it is read, and run the command again",
            )
        return self.images.decoded(content, position)

    def contents(self) -> list[bytes]:
        """The sha256 of the content of each sample."""
        assert self.sha256 is not None, "only samples that were hashed are compared"
        return [row.tobytes() for row in self.sha256]

    def subset(self, positions: Indices) -> Dataset:
        """The samples at these positions, in this order, under the same name and with the same classes."""
        return replace(
            self,
            sample_ids=tuple(self.sample_ids[position] for position in positions),
            labels=None if self.labels is None else self.labels[positions],
            indices=self.indices[positions],
            sha256=None if self.sha256 is None else self.sha256[positions],
        )

    def shuffled(self, seed: int) -> Indices:
        """Every position once, in an order drawn by a seed: the first of them are a draw of any size."""
        return np.random.default_rng(seed).permutation(len(self))

    def sample(self, count: int, seed: int) -> Dataset:
        """So many samples drawn by a seed, in their order; all where there are no more."""
        return self.subset(np.sort(self.shuffled(seed)[:count]))


@dataclass(frozen=True, eq=False)
class ArrayImages:
    """Pictures in memory, uint8 (n, H, W), (n, H, W, 1) or (n, H, W, 3), and the file that they were read from."""

    pixels: npt.NDArray[np.uint8]
    origin: str = ""

    def content(self, index: int) -> bytes:
        content: bytes = self.pixels[index].tobytes()
        return content

    def decoded(self, content: bytes, index: int) -> Image:
        return as_rgb(np.frombuffer(content, np.uint8).reshape(self.pixels.shape[1:]))

    def place(self, index: int) -> str:
        return f"{self.origin}#{index}"

    def states(self, indices: Sequence[int], known: ImageStates) -> list[ImageState]:
        return [ImageState(hashlib.sha256(self.content(index)).hexdigest()) for index in indices]


@dataclass(frozen=True, eq=False)
class SubsetImages:
    """Some pictures of another source, by their positions in it."""

    images: Images
    positions: Indices

    def content(self, index: int) -> bytes:
        return self.images.content(int(self.positions[index]))

    def decoded(self, content: bytes, index: int) -> Image:
        return self.images.decoded(content, int(self.positions[index]))

    def place(self, index: int) -> str:
        return self.images.place(int(self.positions[index]))

    def states(self, indices: Sequence[int], known: ImageStates) -> list[ImageState]:
        return self.images.states(self.positions[indices].tolist(), known)
