"""Splits and draws of samples, decided by the hashes of sample ids and never by the order of samples."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

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


_BY_IMPORTANCE: tuple[Split, ...] = ("train", "test", "val")  # of a class with fewer samples than splits


def split_named(word: str) -> Split | None:
    """The split with this name, or None."""
    return _NAMED.get(word.lower())


def split_by_hash(ids: Sequence[str], splits: Splits, labels: Labels | None = None) -> tuple[Split, ...]:
    """The split of each sample, by the hash of (seed, id). A sample keeps its split when other samples are added.

    Each class is divided by the same fractions in expectation. With labels, a class that this leaves without a sample
    in a split of a fraction above 0 gets there the sample whose hash is nearest, if the class is large enough: a class
    of one sample is in train, of two in train and test. Such a sample may leave that split when others are added.
    """
    positions = np.array([unit_hash(f"{splits.seed}/{sample_id}") for sample_id in ids])
    chosen: list[Split] = [_split_at(position, splits) for position in positions.tolist()]
    for label in () if labels is None else np.unique(labels).tolist():
        members = np.flatnonzero(labels == label).tolist()
        needed = [split for split in _BY_IMPORTANCE if _share(split, splits) > 0][: len(members)]
        for split in needed:
            if all(chosen[member] != split for member in members):
                moved = _nearest_to_spare(members, chosen, positions, split, needed, splits)
                chosen[moved] = split
    return tuple(chosen)


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


def _share(split: Split, splits: Splits) -> float:
    return {"val": splits.val, "test": splits.test}.get(split, 1 - splits.val - splits.test)


def _nearest_to_spare(
    members: Sequence[int],
    chosen: Sequence[Split],
    positions: npt.NDArray[np.float64],
    split: Split,
    needed: Sequence[Split],
    splits: Splits,
) -> int:
    """The sample of a class that moves to an empty split: of the splits that can spare one, the nearest by hash."""
    counts = Counter(chosen[member] for member in members)
    spare = [member for member in members if counts[chosen[member]] > 1 or chosen[member] not in needed]
    start = {"test": 0.0, "val": splits.test}.get(split, splits.test + splits.val)
    middle = start + _share(split, splits) / 2
    return min(spare, key=lambda member: abs(positions[member] - middle))


def _split_at(position: float, splits: Splits) -> Split:
    if position < splits.test:
        return "test"
    return "val" if position < splits.test + splits.val else "train"
