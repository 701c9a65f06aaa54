"""Arrays in an .npz file. Pickled objects are refused."""

from __future__ import annotations

import lzma
import os
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgevit.configs import Npz
from edgevit.configs.fields import absolute_path
from edgevit.data.class_names import composed
from edgevit.data.dataset import SPLITS, ArrayImages, Source, Split
from edgevit.data.splits import split_by_hash
from edgevit.errors import DataError, first_line, listed

Arrays = dict[str, npt.NDArray[Any]]

_NAMES = frozenset({"classes", *(f"{prefix}{array}" for prefix in ("", *(f"{split}_" for split in SPLITS))
                                 for array in ("images", "labels"))})  # fmt: skip
# Errors of numpy and zipfile on files that are damaged, encrypted (RuntimeError) or packed by an unknown method.
_DAMAGE = (OSError, ValueError, EOFError, LookupError, TypeError, SyntaxError, RuntimeError, OverflowError,
           zipfile.BadZipFile, zlib.error, lzma.LZMAError, tokenize.TokenError)  # fmt: skip


def read(config: Npz, base: Path) -> Source:
    """Read `images` and `labels`, or train_images, train_labels, val_images, …; and the names `classes`, if present.

    Without `classes`, each distinct label (a number or a string) is a class.

    Raises:
        DataError: the file is missing or damaged, or its arrays have wrong names, types or shapes.
    """
    file = absolute_path(config.path, base)
    arrays, others = _load(file)
    prefixes = [f"{split}_" for split in SPLITS if f"{split}_images" in arrays] or [""]
    parts = [_part(arrays, prefix, file, others) for prefix in prefixes]
    if len({images.shape[1:] for images, _ in parts}) > 1:
        raise DataError("the splits differ in the size of their images", where=file)
    pixels = np.concatenate([images for images, _ in parts])
    classes, labels = _array_labels(np.concatenate([labels for _, labels in parts]), arrays.get("classes"), file)
    ids = tuple(
        f"{prefix.replace('_', '/')}{i:07d}"
        for prefix, (images, _) in zip(prefixes, parts, strict=True)
        for i in range(len(images))
    )
    splits = split_by_hash(ids, config.splits, labels) if prefixes == [""] else _split_of_each_sample(prefixes, parts)
    notes = [f"{len(others)} arrays with other names are passed over: {listed(others)}"] if others else []
    return Source(classes, ids, labels, splits, ArrayImages(pixels, os.path.realpath(file)), tuple(notes))


def _load(file: Path) -> tuple[Arrays, list[str]]:
    """The arrays of the data set, and the names of the other arrays, which are not read."""
    if not file.is_file():
        raise DataError("there is no such file", where=file, next="correct the path")
    try:
        with file.open("rb") as opened:
            archive = np.load(opened, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError("this file holds a single array", where=file, expected="an .npz with images and labels")
            wanted = [name for name in archive.files if name in _NAMES]
            _check_size(archive, wanted, file)
            return {name: archive[name] for name in wanted}, sorted(set(archive.files).difference(wanted))
    except MemoryError:
        raise DataError("there is not enough memory for its arrays", where=file) from None
    except _DAMAGE as error:
        raise DataError(
            f"this file cannot be read as .npz: {first_line(error)}", where=file, expected="arrays without objects"
        ) from None


def _check_size(archive: np.lib.npyio.NpzFile, names: list[str], file: Path) -> None:
    """Raise DataError if the arrays, unpacked, would take more than half of this machine's memory."""
    packed = {entry.filename.removesuffix(".npy"): entry for entry in archive.zip.infolist()}  # type: ignore[union-attr]
    size_bytes = sum(packed[name].file_size for name in names)
    limit_bytes = _memory_bytes() // 2
    if size_bytes > limit_bytes:
        raise DataError(
            "the arrays of this file are too large for this machine's memory",
            where=file,
            got=f"{size_bytes / 2**30:.1f} GiB",
            expected=f"at most {limit_bytes / 2**30:.1f} GiB",
            next="write the images as files or as tar shards, which are read one by one",
        )


def _memory_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _part(arrays: Arrays, prefix: str, file: Path, others: list[str]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[Any]]:
    images, labels = arrays.get(f"{prefix}images"), arrays.get(f"{prefix}labels")
    if images is None or labels is None:
        expected = f"{prefix}images and {prefix}labels"
        raise DataError(
            "the arrays have unexpected names", where=file, got=", ".join([*arrays, *others]), expected=expected
        )
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3)):
        got = f"{images.dtype} {images.shape}"
        raise DataError(
            f"{prefix}images has a wrong type or shape", where=file, got=got, expected="uint8 (N,H,W[,1|3])"
        )
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iuU":
        got = f"{labels.dtype} {labels.shape}"
        expected = f"integers or strings ({len(images)},)"
        raise DataError(f"{prefix}labels has a wrong type or shape", where=file, got=got, expected=expected)
    return images, labels


def _array_labels(
    labels: npt.NDArray[Any], names: npt.NDArray[Any] | None, file: Path
) -> tuple[tuple[str, ...], npt.NDArray[np.int64]]:
    if names is None:
        names_or_numbers = [composed(label) for label in labels.tolist()] if labels.dtype.kind == "U" else labels
        distinct, numbers = np.unique(names_or_numbers, return_inverse=True)
        return tuple(str(label) for label in distinct), numbers.astype(np.int64)
    if (
        names.ndim != 1
        or labels.dtype.kind == "U"
        or (len(labels) and not 0 <= labels.min() <= labels.max() < len(names))
    ):
        got = f"{labels.dtype}, {labels.min()} to {labels.max()}" if labels.dtype.kind != "U" else "strings"
        raise DataError(
            "the labels are not indices into 'classes'", where=file, got=got, expected=f"0 to {len(names) - 1}"
        )
    return tuple(composed(str(name)) for name in names), labels.astype(np.int64)


def _split_of_each_sample(prefixes: list[str], parts: list[tuple[Any, Any]]) -> tuple[Split, ...]:
    split_of_prefix: dict[str, Split] = {f"{split}_": split for split in SPLITS}
    return tuple(
        split_of_prefix[prefix] for prefix, (images, _) in zip(prefixes, parts, strict=True) for _ in range(len(images))
    )
