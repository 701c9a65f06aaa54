"""Images that a CSV file lists: a path, a label and perhaps a split in each row."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from io import StringIO
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from edgevit.artifacts import composed
from edgevit.configs import Csv
from edgevit.configs.fields import absolute_path
from edgevit.data.dataset import Source, Split, with_unlabelled
from edgevit.data.labels import class_indices
from edgevit.data.links import leads_out
from edgevit.data.preprocess import file_content, image_suffixes, is_image_name
from edgevit.data.sources.image_folder import FolderImages
from edgevit.data.splits import split_by_hash, split_named
from edgevit.errors import DataError, did_you_mean, listed

MOST_ROWS = 5_000_000
SEPARATORS = (",", ";", "\t")
# Usual names of columns, in lower case and without "_", "-" and spaces; the first that a file has is taken.
IMAGE_COLUMNS = (
    "image", "path", "file", "filename", "filepath", "imagepath", "imagename", "imagefile", "img", "imgpath", "imageid",
    "id",
)  # fmt: skip
LABEL_COLUMNS = ("label", "class", "classname", "category", "target", "labels", "species", "diagnosis", "y")
COORDINATES = {"y": "x"}  # a column that is no label where the other one is there
SPLIT_COLUMNS = ("split", "set", "subset", "partition")


class _Row(NamedTuple):
    """A row of the file: its line, the image's path below the folder, and its label and split, or "" for none."""

    line: int
    path: str
    label: str
    split: str


class _Columns(NamedTuple):
    """Positions of the columns; None for a column that the file lacks."""

    image: int
    label: int
    split: int | None


class _Table(NamedTuple):
    """The rows of a file after its header: the line and the cells of each, their columns, and notes about these."""

    rows: Sequence[tuple[int, list[str]]]
    columns: _Columns
    notes: tuple[str, ...]


def read(config: Csv, base: Path) -> Source:
    """List the images of a CSV file. Ids are the paths in it. Rows without a label have the split UNLABELLED_SPLIT.

    A path without the suffix of an image gets the suffix of the file that is there. Rows that repeat a path with the
    same label count once.

    Raises:
        DataError: the file is missing, too large or no text; it lacks a column; or a row has too few cells, a path that
            is missing or leads out of the folder, another split than its other rows, or a path has two labels.
    """
    file = absolute_path(config.path, base)
    folder = file.parent if config.images is None else absolute_path(config.images, base)
    if not folder.is_dir():
        raise DataError("there is no such folder", where=folder, next="correct 'images' of the data set")
    table = _table(config, file)
    rows = list(_rows(table, file, folder))
    labelled = sorted((row for row in rows if row.label), key=lambda row: row.path)
    if not labelled:
        raise DataError("no row has a label", where=file, got=f"{len(rows)} rows", expected="a path and a label a row")
    ids = tuple(row.path for row in labelled)
    classes = tuple(sorted({row.label for row in labelled}))  # numpy would drop a NUL at the end of a name
    labels = class_indices([row.label for row in labelled], classes)
    without_labels = tuple(sorted(row.path for row in rows if not row.label))
    images = FolderImages(folder, (*ids, *without_labels))
    notes = table.notes
    if without_labels:
        notes += (f"{len(without_labels)} rows have no label: role pool",)
    named = _named_splits(labelled, file)
    splits = named or split_by_hash(ids, config.splits, labels)
    return with_unlabelled(Source(classes, ids, labels, splits, images, notes), without_labels)


def _table(config: Csv, file: Path) -> _Table:
    lines = _cells(file)
    if not lines:
        raise DataError("this file is empty", where=file, expected="a path and a label a row")
    first = lines[0][1]
    columns, has_header = _columns(config, first, file)
    return _Table(lines[has_header:], columns, _guess_notes(config, columns, first) if has_header else ())


def _guess_notes(config: Csv, columns: _Columns, header: Sequence[str]) -> tuple[str, ...]:
    """A note that names the columns, where the config does not name those of paths and labels."""
    if config.image_column and config.label_column:
        return ()
    taken = f"'{header[columns.image].strip()}' has the paths and '{header[columns.label].strip()}' the labels"
    return (f"columns taken by their names: {taken}; name others with image_column and label_column",)


def _rows(table: _Table, file: Path, folder: Path) -> Iterator[_Row]:
    """The rows of the file, each path once."""
    columns = table.columns
    needed = 1 + max(column for column in columns if column is not None)
    first: dict[str, _Row] = {}
    for line, cells in table.rows:
        if len(cells) < needed:
            got = str(len(cells))
            raise DataError("this row has too few cells", where=f"{file}:{line}", got=got, expected=f"{needed} or more")
        split = "" if columns.split is None else cells[columns.split].strip()
        path = _path(cells[columns.image], folder, f"{file}:{line}")
        row = _Row(line, path, composed(cells[columns.label].strip()), split)
        other = first.setdefault(path, row)
        if other is row:
            yield row
        elif (other.label, other.split) != (row.label, row.split):
            got = f"'{other.label}' in line {other.line}, '{row.label}' in line {line}"
            raise DataError(f"'{path}' has two labels or splits", where=f"{file}:{line}", got=got)


def _cells(file: Path) -> list[tuple[int, list[str]]]:
    """The number of each line that is not blank, and its cells."""
    text = _text(file)
    first_line = text.partition("\n")[0]
    separator = max(SEPARATORS, key=first_line.count)
    reader = csv.reader(StringIO(text, newline=""), delimiter=separator, strict=True)
    lines: list[tuple[int, list[str]]] = []
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                lines.append((reader.line_num, cells))
            if len(lines) > MOST_ROWS:
                raise DataError("this file has too many rows", where=file, expected=f"at most {MOST_ROWS}")
    except csv.Error as error:
        raise DataError(f"this line cannot be read: {error}", where=f"{file}:{reader.line_num}") from None
    return lines


def _text(file: Path) -> str:
    try:
        return file_content(file).decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError("there is no such file", where=file, next="correct the path") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError("this file is not UTF-8 text", where=f"{file}:{line}", next="save it as UTF-8") from None
    except (OSError, ValueError) as error:
        raise DataError(f"this file cannot be read: {error}", where=file) from None


def _columns(config: Csv, first: Sequence[str], file: Path) -> tuple[_Columns, bool]:
    """The columns, and whether the first row names them. Without names: the column of paths, and the next other one."""
    named = {"image_column": config.image_column, "label_column": config.label_column}
    asked = {**named, "split_column": config.split_column}
    paths = [position for position, cell in enumerate(first) if is_image_name(cell.strip())]
    if paths and not any(asked.values()):
        others = [position for position in range(len(first)) if position != paths[0]]
        if not others:
            raise _no_column("labels", first, file)
        return _Columns(paths[0], others[0], None), False
    usual = {"image_column": IMAGE_COLUMNS, "label_column": LABEL_COLUMNS, "split_column": SPLIT_COLUMNS}
    positions = {option: _position(asked[option], usual[option], first, file) for option in asked}
    image, label = positions["image_column"], positions["label_column"]
    if image is None or label is None:
        raise _no_column("paths" if image is None else "labels", first, file)
    return _Columns(image, label, positions["split_column"]), True


def _position(asked: str | None, usual: Sequence[str], header: Sequence[str], file: Path) -> int | None:
    names = [name.strip() for name in header]
    if asked is not None:
        if asked not in names:
            nearest = did_you_mean(asked, names)
            raise DataError(f"there is no column '{asked}'", where=f"{file}:1", expected=listed(names), next=nearest)
        return names.index(asked)
    plain = [name.lower().replace("_", "").replace("-", "").replace(" ", "") for name in names]
    candidates = (name for name in usual if COORDINATES.get(name) not in plain)
    return next((plain.index(name) for name in candidates if name in plain), None)


def _no_column(what: str, first: Sequence[str], file: Path) -> DataError:
    return DataError(
        f"no column of {what} is found",
        where=f"{file}:1",
        got=listed([cell.strip() for cell in first]),
        expected="columns such as image and label, or rows of a path and a label",
        next="name the columns: image_column and label_column of the data set",
    )


def _path(cell: str, folder: Path, where: str) -> str:
    """The path of a cell, relative to the folder, with "/"; with the suffix of the file if the cell has none."""
    written = cell.strip().replace("\\", "/")
    path = Path(os.path.normpath(folder / written))
    if not written:
        raise DataError("this row has no path", where=where, expected="a path in the data set's folder")
    if "\0" in written or not path.is_relative_to(os.path.normpath(folder)) or leads_out(path, folder):
        expected = "a path in the data set's folder"
        raise DataError("this path leads out of the folder", where=where, got=cell, expected=expected)
    relative = path.relative_to(os.path.normpath(folder)).as_posix()
    if os.path.isfile(path) or PurePosixPath(relative).suffix.lower() in image_suffixes():
        return _present(relative, path, where)
    with_suffix = [suffix for suffix in sorted(image_suffixes()) if os.path.isfile(f"{path}{suffix}")]
    return relative + with_suffix[0] if with_suffix else _present(relative, path, where)


def _present(relative: str, path: Path, where: str) -> str:
    if os.path.isdir(path):
        raise DataError("this path is a folder", where=where, got=path, expected="the path of an image")
    if not os.path.isfile(path):  # unlike Path.is_file, False for a name that is too long
        raise DataError(
            "there is no such image", where=where, got=path, next="correct 'images' of the data set, or the row"
        )
    return relative


def _named_splits(rows: Sequence[_Row], file: Path) -> tuple[Split, ...] | None:
    """The split of each row; None if the file names no splits."""
    if not any(row.split for row in rows):
        return None
    splits: list[Split] = []
    for row in rows:
        split = split_named(row.split)
        if split is None:
            got = f"'{row.split}'"
            raise DataError("this is no split", where=f"{file}:{row.line}", got=got, expected="train, val or test")
        splits.append(split)
    return tuple(splits)
