"""Data sets in memory: samples with ids, with or without labels, whose images are read one at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from edgevit.data.hashes import ImageState, ImageStates
from edgevit.data.images import Image, as_rgb
from edgevit.errors import DataError

Split = Literal["train", "val", "test", "unlabelled"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
UNLABELLED_SPLIT: Split = "unlabelled"  # images without labels beside labelled splits
NO_LABEL = -1
Labels = npt.NDArray[np.int64]
Indices = npt.NDArray[np.int64]


class Images(Protocol):
    """The images of a source, by position. Must be picklable, for loader workers, and safe to read from threads."""

    def content(self, index: int) -> bytes:
        """The bytes of image `index`, from which its hash is computed. Raises DataError if they cannot be read."""
        ...

    def decoded(self, content: bytes, index: int) -> Image:
        """Image `index` decoded from its bytes, uint8 (H, W, 3), RGB. Raises DataError if they are not an image."""
        ...

    def place(self, index: int) -> str:
        """The location of image `index`. Two data sets that read the same image give the same location."""
        ...

    def states(self, indices: Sequence[int], known: ImageStates) -> list[ImageState]:
        """For each of these images: the hash of its content, and the problem if it cannot be decoded."""
        ...


@dataclass(frozen=True, eq=False)
class Source:
    """All samples of a data set, of every role, in a fixed order.

    Attributes:
        classes: class names; a label is an index into them.
        ids: the id of each sample, unique and stable: a relative path, or a name made from its index.
        labels: (n,) int64, or None if the source has none. NO_LABEL for a sample of the split UNLABELLED_SPLIT.
        splits: the split of each sample.
        images: the images of the samples.
        notes: notes for the user about how the source was read.
        passed_over: files and folders beside the samples that were not read, by category; each category is sorted.
    """

    classes: tuple[str, ...]
    ids: tuple[str, ...]
    labels: Labels | None
    splits: tuple[Split, ...]
    images: Images
    notes: tuple[str, ...] = ()
    passed_over: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def with_unlabelled(source: Source, ids: tuple[str, ...]) -> Source:
    """A labelled source with further samples of the split UNLABELLED_SPLIT, whose images follow those of the others."""
    if not ids:
        return source
    assert source.labels is not None
    return replace(
        source,
        ids=source.ids + ids,
        labels=np.concatenate([source.labels, np.full(len(ids), NO_LABEL, np.int64)]),
        splits=source.splits + (UNLABELLED_SPLIT,) * len(ids),
    )


@dataclass(frozen=True, eq=False)
class Dataset:
    """The samples of one role, such as "digits.support".

    Attributes:
        name: data set and role.
        classes: class names; a label is an index into them. A class may have no sample in this role.
        sample_ids: the id of each sample.
        labels: (n,) int64, or None if this role hides them.
        images: the images of the whole source.
        indices: the position of each sample in `images`.
        sha256: (n, 32) uint8, the hash that each image's content must have; None if the images were not hashed.
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

        Raises DataError if it cannot be read, or if it changed after the data set was hashed.
        """
        position = int(self.indices[index])
        content = self.images.content(position)
        if self.sha256 is not None and hashlib.sha256(content).digest() != self.sha256[index].tobytes():
            raise DataError(
                "the image was changed while it was in use",
                where=self.images.place(position),
                next=f"do not change {self.name} while it is in use, and run the command again",
            )
        return self.images.decoded(content, position)

    def contents(self) -> list[bytes]:
        """The sha256 of each sample's content, 32 bytes each."""
        assert self.sha256 is not None, "only hashed samples can be compared"
        return [row.tobytes() for row in self.sha256]

    def subset(self, positions: Indices) -> Dataset:
        """The samples at these positions, in this order. Name and classes stay."""
        return replace(
            self,
            sample_ids=tuple(self.sample_ids[position] for position in positions),
            labels=None if self.labels is None else self.labels[positions],
            indices=self.indices[positions],
            sha256=None if self.sha256 is None else self.sha256[positions],
        )

    def shuffled(self, seed: int) -> Indices:
        """A permutation of all positions, drawn with a seed. Its first k entries are a random sample of k positions."""
        return np.random.default_rng(seed).permutation(len(self))

    def sample(self, count: int, seed: int) -> Dataset:
        """`count` samples drawn with a seed, in their original order; all samples of a smaller data set."""
        return self.subset(np.sort(self.shuffled(seed)[:count]))


@dataclass(frozen=True, eq=False)
class ArrayImages:
    """Images in memory, uint8 (n, H, W), (n, H, W, 1) or (n, H, W, 3), and the file they were read from."""

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
    """A selection of another source's images, by position."""

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
