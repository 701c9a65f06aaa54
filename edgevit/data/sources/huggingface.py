"""Data sets of the Hugging Face `datasets` package in a local folder. Nothing is downloaded or executed."""

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

Table = Any  # a datasets.Dataset: its rows stay on disk, and pickling it stores only file names

_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "labels", "fine_label")


def read(config: HuggingFace, base: Path) -> Source:
    """Open a Dataset or a DatasetDict. Ids are row numbers with the split, "train/0000012", or without, "0000012".

    Raises:
        MissingDependency: the package `datasets` is not installed.
        DataError: the folder is missing or damaged, or is not such a data set, or has no usable columns.
    """
    root = absolute_path(config.path, base)
    notes: list[str] = []
    parts = list(_parts(root, config, notes))
    samples = [(part.split, row) for part in parts for row in range(len(part.rows.table))]
    if not samples:
        raise DataError("there are no rows to learn from", where=root, got="; ".join(notes) or "no rows")
    ids = tuple(f"{split}/{row:07d}" if split else f"{row:07d}" for split, row in samples)
    named = tuple(split for split, _ in samples if split)
    images = ArrowImages(tuple(part.rows for part in parts), np.cumsum([len(part.rows.table) for part in parts]), ids)
    if not config.labelled:
        return Source((), ids, None, named or split_by_hash(ids, config.splits), images, tuple(notes))
    if len({part.class_names for part in parts}) > 1:
        raise DataError("the splits differ in their classes", where=root)
    raw_labels = [label for part in parts for label in part.labels]
    classes, labels = classes_and_labels(raw_labels, parts[0].class_names, root)
    splits = named or split_by_hash(ids, config.splits, labels)
    return Source(classes, ids, labels, splits, images, tuple(notes))


@dataclass(frozen=True, eq=False)
class Rows:
    """The column of encoded images of a saved Dataset."""

    folder: Path
    column: str
    table: Table

    def stamp(self) -> str:
        """The common stamp of its files."""
        return stamp_of_all(sorted(self.folder.glob("*")))


@dataclass(frozen=True, eq=False)
class ArrowImages:
    """The images of several tables, concatenated; `ends` holds the position after the last row of each table."""

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
    """An image of a table, with the stamp that the table had when it was opened."""

    rows: Rows
    row: int
    table_stamp: str

    @property
    def key(self) -> str:
        return f"{self.rows.folder}#{self.rows.column}/{self.row}"

    def stamp(self) -> str:
        return self.table_stamp

    def read(self) -> bytes:
        image = self.rows.table[self.row][self.rows.column]
        if not image or image["bytes"] is None:
            raise ValueError("the data set does not contain the bytes of this image")
        content: bytes = image["bytes"]
        return content


@dataclass(frozen=True, eq=False)
class _Part:
    """A split of a DatasetDict, or a whole Dataset."""

    split: Split | None
    rows: Rows
    class_names: tuple[str, ...] | None
    labels: list[int | str]


def _parts(root: Path, config: HuggingFace, notes: list[str]) -> Iterator[_Part]:
    """The splits with a known name and, if `config.labelled`, with labels. Other splits are listed in `notes`."""
    loaded = _loaded(root)
    if not isinstance(loaded, dict):
        yield _part(None, root, loaded, config)
        return
    seen: dict[Split, str] = {}
    for name in sorted(loaded):
        split = split_named(name)
        if split is None:
            notes.append(f"the split '{name}' is passed over: it is not train, val or test")
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
    """The Dataset, or a dict of Datasets."""
    if not root.is_dir():
        raise DataError("there is no such folder", where=root, expected="a local folder that save_to_disk wrote")
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
            expected="a complete folder that Dataset.save_to_disk or DatasetDict.save_to_disk wrote",
        ) from None


def _part(split: Split | None, folder: Path, table: Table, config: HuggingFace) -> _Part:
    from datasets import Image as ImageFeature

    refuse_links_out((Path(file["filename"]) for file in table.cache_files), folder)
    table = table.with_format(None)
    column = _column(config.image_column, _IMAGE_COLUMNS, table, folder, "image_column")
    if not isinstance(table.features[column], ImageFeature):
        got = f"'{column}' is {table.features[column]}"
        raise DataError("this column does not hold images", where=folder, got=got, expected="the feature Image()")
    rows = Rows(folder, column, table.select_columns([column]).cast_column(column, ImageFeature(decode=False)))
    if not config.labelled:
        return _Part(split, rows, None, [])
    return _Part(split, rows, *_labels(table, folder, config.label_column))


def _column(wanted: str | None, usual: Sequence[str], table: Table, folder: Path, option: str) -> str:
    names = table.column_names
    column = next((name for name in ([wanted] if wanted else usual) if name in names), None)
    if column is None:
        raise DataError(
            f"there is no column '{wanted or usual[0]}'",
            where=folder,
            got=", ".join(names),
            next=(did_you_mean(wanted, names) if wanted else None) or f"name the column in {option}",
        )
    return column


def _labels(table: Table, folder: Path, wanted: str | None) -> tuple[tuple[str, ...] | None, list[int | str]]:
    """The class names, if the column has them, and the label of each row."""
    from datasets import ClassLabel

    column = _column(wanted, _LABEL_COLUMNS, table, folder, "label_column (or set labelled: false)")
    feature = table.features[column]
    labels: list[Any] = table[column][:]
    for row, label in enumerate(labels):
        if isinstance(label, bool) or not isinstance(label, int | str):
            got = f"{label!r} in row {row} of '{column}' ({feature})"
            raise DataError("a label is neither a number nor a name", where=folder, got=got)
    return tuple(feature.names) if isinstance(feature, ClassLabel) else None, labels
