"""Data sets of the Hugging Face `datasets` package, saved to a local folder. Nothing is fetched or executed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgevit.configs import HuggingFace
from edgevit.configs.fields import absolute_path
from edgevit.data.dataset import Indices, Source, Split
from edgevit.data.hashes import ImageState, ImageStates, content_of, stamp_of_all
from edgevit.data.images import Image, read_image
from edgevit.data.labels import classes_and_labels
from edgevit.data.links import refuse_links_out
from edgevit.data.splits import split_by_hash, split_named
from edgevit.errors import DataError, MissingDependency, did_you_mean

Table = Any  # a datasets.Dataset: its rows stay on disk, and it pickles as the names of its files

_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "labels", "fine_label")


def read(config: HuggingFace, base: Path) -> Source:
    """Open a Dataset or a DatasetDict. Ids are the rows within their splits: "train/0000012", or "0000012" without.

    Raises:
        MissingDependency: the package `datasets` is not installed.
        DataError: the folder is missing, damaged or no such data set, or its columns are not what is expected.
    """
    root = absolute_path(config.path, base)
    notes: list[str] = []
    parts = list(_parts(root, config, notes))
    samples = [(part.split, row) for part in parts for row in range(len(part.rows.table))]
    if not samples:
        raise DataError("there are no rows to learn from", where=root, got="; ".join(notes) or "no rows")
    ids = tuple(f"{split}/{row:07d}" if split else f"{row:07d}" for split, row in samples)
    named = tuple(split for split, _ in samples if split)
    splits = named or split_by_hash(ids, config.splits)
    images = ArrowImages(tuple(part.rows for part in parts), np.cumsum([len(part.rows.table) for part in parts]), ids)
    if not config.labelled:
        return Source((), ids, None, splits, images, tuple(notes))
    if len({part.class_names for part in parts}) > 1:
        raise DataError("the splits differ in their classes", where=root)
    found = [label for part in parts for label in part.labels]
    classes, labels = classes_and_labels(found, parts[0].class_names, root)
    return Source(classes, ids, labels, splits, images, tuple(notes))


@dataclass(frozen=True, eq=False)
class Rows:
    """The picture column of one saved Dataset, not decoded."""

    folder: Path
    column: str
    table: Table

    def stamp(self) -> str:
        """One stamp for all its files."""
        return stamp_of_all(sorted(self.folder.glob("*")))


@dataclass(frozen=True, eq=False)
class ArrowImages:
    """The pictures of several tables, one after the other; `ends` is where each table ends in that row of rows."""

    tables: tuple[Rows, ...]
    ends: Indices
    ids: tuple[str, ...]

    def content(self, index: int) -> bytes:
        table, row = self._row(index)
        return content_of(StoredRow(table, row, ""), self._where(index))

    def decoded(self, content: bytes, index: int) -> Image:
        return read_image(content, self._where(index))

    def place(self, index: int) -> str:
        table, row = self._row(index)
        return f"{os.path.realpath(table.folder)}#{table.column}/{row}"

    def states(self, indices: Sequence[int], known: ImageStates) -> list[ImageState]:
        stamps = {table.folder: table.stamp() for table in self.tables}
        rows = map(self._row, indices)
        return known.of(StoredRow(table, row, stamps[table.folder]) for table, row in rows)

    def _where(self, index: int) -> str:
        return f"{self._row(index)[0].folder}: {self.ids[index]}"

    def _row(self, index: int) -> tuple[Rows, int]:
        number = int(np.searchsorted(self.ends, index, side="right"))
        return self.tables[number], index - (int(self.ends[number - 1]) if number else 0)


@dataclass(frozen=True, eq=False)
class StoredRow:
    """One picture of a table that had this stamp when it was opened."""

    rows: Rows
    row: int
    table_stamp: str

    @property
    def key(self) -> str:
        return f"{self.rows.folder}#{self.rows.column}/{self.row}"

    def stamp(self) -> str:
        return self.table_stamp

    def read(self) -> bytes:
        picture = self.rows.table[self.row][self.rows.column]
        if not picture or picture["bytes"] is None:
            raise ValueError("the data set holds no bytes of this picture")
        content: bytes = picture["bytes"]
        return content


@dataclass(frozen=True, eq=False)
class _Part:
    """A split, or all there is."""

    split: Split | None
    rows: Rows
    class_names: tuple[str, ...] | None
    labels: list[int | str]


def _parts(root: Path, config: HuggingFace, notes: list[str]) -> Iterator[_Part]:
    """The splits that go by a known name and, where labels are wanted, have them; the others are noted."""
    loaded = _loaded(root)
    if not isinstance(loaded, dict):
        yield _part(None, root, loaded, config)
        return
    seen: dict[Split, str] = {}
    for name in sorted(loaded):
        split = split_named(name)
        if split is None:
            notes.append(f"the split '{name}' is passed over: it is none of train, val and test")
            continue
        if split in seen:
            raise DataError(f"two splits serve as {split}", where=root, got=f"{seen[split]}, {name}")
        seen[split] = name
        part = _part(split, root / name, loaded[name], config)
        if config.labelled and part.labels and all(label == -1 for label in part.labels):
            notes.append(f"the split '{name}' is passed over: its labels are hidden (-1)")
        else:
            yield part


def _loaded(root: Path) -> Any:
    """The Dataset, or a dict of them."""
    if not root.is_dir():
        raise DataError("there is no such folder", where=root, expected="what save_to_disk wrote, on a local disk")
    try:
        import datasets
    except ImportError:
        raise MissingDependency(
            "the package 'datasets' is not installed", where=root, next="pip install 'edgevit[huggingface]'"
        ) from None
    refuse_links_out(root.rglob("*"), root)
    try:
        return datasets.load_from_disk(str(root))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(
            f"this cannot be opened as a saved data set: {error}",
            where=root,
            expected="a folder that Dataset.save_to_disk or DatasetDict.save_to_disk wrote, whole",
        ) from None


def _part(split: Split | None, folder: Path, table: Table, config: HuggingFace) -> _Part:
    from datasets import Image as ImageFeature

    refuse_links_out((Path(one["filename"]) for one in table.cache_files), folder)
    table = table.with_format(None)
    column = _column(config.image_column, _IMAGE_COLUMNS, table, folder, "image_column")
    if not isinstance(table.features[column], ImageFeature):
        got = f"'{column}' is {table.features[column]}"
        raise DataError("this column holds no pictures", where=folder, got=got, expected="the feature Image()")
    rows = Rows(folder, column, table.select_columns([column]).cast_column(column, ImageFeature(decode=False)))
    if not config.labelled:
        return _Part(split, rows, None, [])
    return _Part(split, rows, *_labels(table, folder, config.label_column))


def _column(wanted: str | None, usual: Sequence[str], table: Table, folder: Path, option: str) -> str:
    names = table.column_names
    found = next((name for name in ([wanted] if wanted else usual) if name in names), None)
    if found is None:
        raise DataError(
            f"there is no column '{wanted or usual[0]}'",
            where=folder,
            got=", ".join(names),
            next=(did_you_mean(wanted, names) if wanted else None) or f"name the column in {option}",
        )
    return found


def _labels(table: Table, folder: Path, wanted: str | None) -> tuple[tuple[str, ...] | None, list[int | str]]:
    """The class names, where the column knows them, and the label of each row."""
    from datasets import ClassLabel

    column = _column(wanted, _LABEL_COLUMNS, table, folder, "label_column (or set labelled: false)")
    feature = table.features[column]
    labels: list[Any] = table[column][:]
    for row, label in enumerate(labels):
        if isinstance(label, bool) or not isinstance(label, int | str):
            got = f"{label!r} in row {row} of '{column}' ({feature})"
            raise DataError("a label is no number and no name", where=folder, got=got)
    return tuple(feature.names) if isinstance(feature, ClassLabel) else None, labels
