"""Splits and draws of samples, decided by the hashes of sample ids and never by the order of samples."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from edgevit.configs import Splits
from edgevit.data.dataset import Dataset, Indices, Labels, Split

_NAMED: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
}


def split_named(word: str) -> Split | None:
    """The split with this name, or None."""
    return _NAMED.get(word.lower())


def split_by_hash(ids: Iterable[str], splits: Splits) -> tuple[Split, ...]:
    """The split of each sample, by the hash of (seed, id). A sample keeps its split when other samples are added.

    Each class is divided by the same fractions in expectation; a small class may have no sample in a split.
    """
    return tuple(_split_at(unit_hash(f"{splits.seed}/{sample_id}"), splits) for sample_id in ids)


def lowest_of_each_class(ids: Sequence[str], labels: Labels, count: int, seed: str) -> Indices:
    """The positions, in ascending order, of the `count` samples of each class with the lowest hash of (seed, id)."""
    order = sorted(range(len(ids)), key=lambda index: unit_hash(f"{seed}/{ids[index]}"))
    ranked = labels[order]
    chosen = [np.asarray(order)[ranked == label][:count] for label in np.unique(labels)]
    return np.sort(np.concatenate(chosen)).astype(np.int64) if chosen else np.empty(0, np.int64)


def sample_by_hash(dataset: Dataset, count: int, seed: int) -> Dataset:
    """The `count` samples with the lowest hash of (seed, id), in their original order; all of a smaller data set.

    The draw stays mostly the same when a few samples are added or removed, unlike that of `Dataset.sample`.
    """
    ranks = np.argsort([unit_hash(f"corruptions {seed}/{name}") for name in dataset.sample_ids], kind="stable")
    return dataset.subset(np.sort(ranks[:count]))


def unit_hash(text: str) -> float:
    """A pseudorandom number in [0, 1), as a function of `text`."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def _split_at(position: float, splits: Splits) -> Split:
    if position < splits.test:
        return "test"
    return "val" if position < splits.test + splits.val else "train"
