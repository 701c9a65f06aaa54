"""Tar shards in the layout of the webdataset package, read by position and not as a stream.

Nothing is unpacked to disk. The bytes of an image are contiguous in its shard, so an index of (offset, size) gives
random access, which training needs: its draws depend only on (seed, epoch, view, sample).
"""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from edgevit.configs import WebDataset
from edgevit.configs.fields import absolute_path
from edgevit.data.class_names import names_in_file
from edgevit.data.dataset import Indices, Source, Split
from edgevit.data.hashes import ImageState, ImageStates, StoredFile, content_of, stamp_of
from edgevit.data.images import Image, read_image
from edgevit.data.labels import classes_and_labels
from edgevit.data.links import refuse_links_out
from edgevit.data.preprocess import OTHER_TYPES, image_suffixes, passed_over_notes
from edgevit.data.shards import ImageMember, ShardIndex, index_of_shard, refuse_compressed
from edgevit.data.splits import split_by_hash, split_named
from edgevit.errors import DataError

CLASSES = "classes.txt"

_BRACES = re.compile(r"\{(?:([0-9]{1,9})\.\.([0-9]{1,9})|([^{}]*,[^{}]*))\}")
_MOST_SHARDS = 100_000
_MOST_BRACES = 20


def read(config: WebDataset, base: Path) -> Source:
    """List the images of all shards, with their labels.

    A sample's id is its key, after the split if shard names tell it ("train/n01440764_10026"). Samples are sorted by
    id. So ids and order do not depend on the distribution of samples over shards. The id contains the name of the shard
    only if the key occurs in several shards of a split.

    Raises:
        DataError: shards are missing, compressed or damaged, or an image has no label or an invalid label.
    """
    root, shards, others = _shards(config.path, base)
    splits = _splits_of_shards(root, shards)
    indices = [index_of_shard(shard, stamp_of(shard), config.labelled) for shard in shards]
    members, notes = _images([str(shard.relative_to(root)) for shard in shards], indices, splits)
    notes += passed_over_notes(others, root)
    if not members:
        expected = f"KEY and one of {' '.join(sorted(image_suffixes()))}"
        raise DataError("there are no images in these shards", where=root, got="; ".join(notes), expected=expected)
    ids = tuple(sample_id for sample_id, _, _ in members)
    images = ShardImages(
        shards=tuple(shards),
        ids=ids,
        shard_of=np.array([shard for _, shard, _ in members], np.int64),
        offsets=np.array([member.offset for _, _, member in members], np.int64),
        sizes=np.array([member.size for _, _, member in members], np.int64),
    )
    named = None if splits is None else tuple(splits[i] for i in images.shard_of)
    if not config.labelled:
        return Source((), ids, None, named or split_by_hash(ids, config.splits), images, tuple(notes))
    raw_labels = _raw_labels([(sample_id, member.label) for sample_id, _, member in members], root)
    classes, labels = classes_and_labels(raw_labels, _class_names(root), root)
    return Source(classes, ids, labels, named or split_by_hash(ids, config.splits, labels), images, tuple(notes))


@dataclass(frozen=True, eq=False)
class ShardImages:
    """Images within tar files, read on demand. Opening the shard for each image is cheap beside decoding."""

    shards: tuple[Path, ...]
    ids: tuple[str, ...]
    shard_of: Indices
    offsets: Indices
    sizes: Indices

    def content(self, index: int) -> bytes:
        return content_of(self._stored(index), self._where(index))

    def decoded(self, content: bytes, index: int) -> Image:
        return read_image(content, self._where(index))

    def place(self, index: int) -> str:
        stored = self._stored(index)
        return f"{os.path.realpath(stored.file)}: {self.ids[index]} at byte {stored.offset}"

    def states(self, indices: Sequence[int], known: ImageStates) -> list[ImageState]:
        positions = np.asarray(indices, np.int64)
        order = np.lexsort((self.offsets[positions], self.shard_of[positions]))  # each shard from its beginning on
        in_order = known.of(self._stored(index) for index in positions[order].tolist())
        return [in_order[rank] for rank in np.argsort(order).tolist()]

    def _where(self, index: int) -> str:
        return f"{self.shards[self.shard_of[index]]}: {self.ids[index]}"

    def _stored(self, index: int) -> StoredFile:
        return StoredFile(self.shards[self.shard_of[index]], int(self.offsets[index]), int(self.sizes[index]))


def _shards(path: str, base: Path) -> tuple[Path, list[Path], dict[str, list[Path]]]:
    """The folder that shard names are relative to, the shards sorted by name, and the other files in the folder."""
    whole = absolute_path(path, base)
    if whole.is_dir():
        root = whole
        files = sorted(file for file in root.rglob("*") if file.is_file() and not _is_hidden(file.relative_to(root)))
        refuse_links_out((file for file in files if file.suffix == ".tar"), root)
    else:
        root, files = _named_files(str(whole) if path.startswith("~") else path, base.absolute())
    for file in files:
        refuse_compressed(file)
    shards = [file for file in files if file.suffix == ".tar"]
    if not shards:
        raise DataError("there are no shards here", where=whole, expected="files NAME.tar", next="correct the path")
    others = [file for file in files if file.suffix != ".tar" and file.name != CLASSES]
    return root, shards, {OTHER_TYPES: others} if others else {}


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _named_files(pattern: str, base: Path) -> tuple[Path, list[Path]]:
    """The files that match a name with {0000..0012}, {a,b}, * or ?. Every alternative in braces has to exist."""
    if pattern.count("{") > _MOST_BRACES:
        raise DataError("there are too many braces", where=pattern, expected=f"at most {_MOST_BRACES}")
    names = list(islice(_expanded(pattern), _MOST_SHARDS + 1))
    if len(names) > _MOST_SHARDS:
        raise DataError(f"these braces name more than {_MOST_SHARDS} shards", where=pattern)
    if not Path(pattern).is_absolute() and (absolute := [name for name in names if Path(name).is_absolute()]):
        raise DataError("an alternative in braces cannot be an absolute path", where=pattern, got=absolute[0])
    root = base / Path(re.split(r"[{*?\[]", pattern)[0] + "-").parent
    files: set[Path] = set()
    for name in names:
        if (base / name).is_file():
            files.add(base / name)
            continue
        matching = [base / match for match in glob.glob(name, root_dir=base) if (base / match).is_file()]
        refuse_links_out(matching, root)
        if not matching:
            raise DataError("there is no such folder or shard", where=base / name, next="correct the path")
        files.update(matching)
    return root, sorted(files)


def _expanded(pattern: str) -> Iterator[str]:
    braces = _BRACES.search(pattern)
    if not braces:
        yield pattern
        return
    first, last, alternatives = braces.groups()
    choices = (
        (f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1))
        if first is not None
        else alternatives.split(",")
    )
    for choice in choices:
        yield from _expanded(pattern[: braces.start()] + choice + pattern[braces.end() :])


def _splits_of_shards(root: Path, shards: Sequence[Path]) -> list[Split] | None:
    """The last split that each shard's path names; None if no path names a split."""
    named = [_split_in(shard.relative_to(root)) for shard in shards]
    splits = [split for split in named if split]
    if not splits:
        return None
    if len(splits) < len(shards):
        without = shards[named.index(None)]
        raise DataError(
            "some shards have the name of a split, and some do not",
            where=root,
            got=f"{without.relative_to(root)}",
            next="rename it (train-….tar, val-….tar, test-….tar), or name in `path` the shards that belong together",
        )
    return splits


def _split_in(path: Path) -> Split | None:
    words = (split_named(word) for word in re.split(r"[^A-Za-z]+", str(path)))
    return next(filter(None, reversed(list(words))), None)


def _images(
    names: Sequence[str], indices: Sequence[ShardIndex], splits: Sequence[Split] | None
) -> tuple[list[tuple[str, int, ImageMember]], list[str]]:
    """All images as (id, number of the shard, image), sorted by id; and notes for the user."""
    passed_over: dict[str, list[str]] = {}
    samples: list[tuple[str, int, ImageMember]] = []
    for number, index in enumerate(indices):
        for category, members in index.passed_over.items():
            passed_over.setdefault(category, []).extend(members)
        split = f"{splits[number]}/" if splits else ""
        samples += [(split + member.key, number, member) for member in index.images]
    notes = list(passed_over_notes(passed_over))
    counts = Counter(sample_id for sample_id, _, _ in samples)
    if len(counts) < len(samples):
        repeated = sum(count for count in counts.values() if count > 1)
        notes.append(f"{repeated} samples have keys that occur in several shards: the shard's name is part of their id")
        samples = [
            (f"{names[number]}/{member.key}" if counts[sample_id] > 1 else sample_id, number, member)
            for sample_id, number, member in samples
        ]
    return sorted(samples, key=lambda sample: sample[0]), notes


def _raw_labels(label_of_id: Sequence[tuple[str, int | str | None]], root: Path) -> list[int | str]:
    labels = [label for _, label in label_of_id if label is not None]
    if len(labels) < len(label_of_id):
        without = [sample_id for sample_id, label in label_of_id if label is None]
        raise DataError(
            f"{len(without)} of {len(label_of_id)} images have no label",
            where=root,
            got=without[0],
            expected='KEY.cls, or KEY.json with "label" or "class", beside the image',
            next=None if labels else "set labelled: false for images without labels",
        )
    return labels


def _class_names(root: Path) -> tuple[str, ...] | None:
    file = root / CLASSES
    if not file.is_file():
        return None
    refuse_links_out([file], root)
    return tuple(name.strip() for name in names_in_file(file))  # labels in shards are stripped too
