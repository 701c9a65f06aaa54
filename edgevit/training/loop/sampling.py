"""Which sample of a stream comes next: a function of the seed and of the number of samples before it."""

from __future__ import annotations

import hashlib
from typing import NamedTuple, Protocol

import numpy as np

from edgevit.data.dataset import Indices, Labels
from edgevit.data.loading import epoch_order


class Draw(NamedTuple):
    """A sample by its index, and the number of times that it was drawn before."""

    its_pass: int
    sample: int


class Sampler(Protocol):
    """An endless sequence of samples. Any position may be asked for at any time."""

    def __getitem__(self, position: int) -> Draw:
        """The sample at this position."""


class Shuffled:
    """Each pass holds all samples once, in a random order."""

    def __init__(self, seed: int, stream: int, samples: int) -> None:
        self._seed, self._stream, self._samples = seed, stream, samples
        self._pass, self._order = -1, np.empty(0, np.int64)  # the latest

    def __getitem__(self, position: int) -> Draw:
        its_pass, place = divmod(position, self._samples)
        if its_pass != self._pass:
            self._pass, self._order = its_pass, epoch_order(self._seed, its_pass, self._stream, self._samples)
        return Draw(its_pass, int(self._order[place]))


class ClassBalanced:
    """Each block of as many samples as there are classes holds one sample of each class, in a random order.

    Each class has passes of its own: all samples of the class come once before any of them comes again. In every range
    of positions, the numbers of samples of two classes differ by at most two.

    Args:
        labels: (samples,), with every class from 0 to num_classes - 1 at least once.
    """

    def __init__(self, seed: int, stream: int, labels: Labels, num_classes: int) -> None:
        self._seed, self._stream = seed, stream
        self._members = [np.flatnonzero(labels == label) for label in range(num_classes)]
        self._block, self._classes = -1, np.empty(0, np.int64)  # the latest
        self._passes: dict[int, tuple[int, Indices]] = {}  # the latest of each class

    def __getitem__(self, position: int) -> Draw:
        block, place = divmod(position, len(self._members))
        if block != self._block:
            self._block, self._classes = block, self._permutation(len(self._members), "block", block)
        label = int(self._classes[place])
        its_pass, place_in_class = divmod(block, len(self._members[label]))
        return Draw(its_pass, int(self._pass_of(label, its_pass)[place_in_class]))

    def _pass_of(self, label: int, its_pass: int) -> Indices:
        latest, order = self._passes.get(label, (-1, None))
        if order is None or latest != its_pass:
            members = self._members[label]
            order = members[self._permutation(len(members), "class", label, its_pass)]
            self._passes[label] = (its_pass, order)
        return order

    def _permutation(self, count: int, *parts: object) -> Indices:
        text = "/".join(map(str, ("balanced", self._seed, self._stream, *parts)))
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        return np.random.default_rng(int.from_bytes(digest, "big")).permutation(count)
