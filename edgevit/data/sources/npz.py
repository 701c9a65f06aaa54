"""Arrays in an .npz file; pickled objects in it are refused."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgevit.configs import Npz
from edgevit.data.dataset import SPLITS, ArrayImages, Source, Split
from edgevit.data.splits import split_by_hash
from edgevit.errors import DataError

Arrays = dict[str, npt.NDArray[Any]]


def read(config: Npz, base: Path) -> Source:
    """Read `images` and `labels`, or train_images, train_labels, val_images, …; and `classes`, the names, if present.

    Without `classes`, each distinct label (a number or a string) is a class.

    Raises:
        DataError: the file is missing or damaged, or its arrays have wrong names, types or shapes.
    """
    file = (base / Path(config.path).expanduser()).absolute()
    arrays = _load(file)
    prefixes = [f"{split}_" for split in SPLITS if f"{split}_images" in arrays] or [""]
    parts = [_part(arrays, prefix, file) for prefix in prefixes]
    if len({images.shape[1:] for images, _ in parts}) > 1:
        raise DataError("the splits differ in the size of their images", where=file)
    pixels = np.concatenate([images for images, _ in parts])
    classes, labels = _named(np.concatenate([labels for _, labels in parts]), arrays.get("classes"), file)
    ids = tuple(
        f"{prefix.replace('_', '/')}{i:07d}"
        for prefix, (images, _) in zip(prefixes, parts, strict=True)
        for i in range(len(images))
    )
    splits = split_by_hash(ids, config.splits) if prefixes == [""] else _repeated(prefixes, parts)
    return Source(classes, ids, labels, splits, ArrayImages(pixels))


def _load(file: Path) -> Arrays:
    if not file.is_file():
        raise DataError("there is no such file", where=file, next="correct the path")
    try:
        with file.open("rb") as opened:
            archive = np.load(opened, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError("this holds a single array", where=file, expected="an .npz with images and labels")
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"this cannot be read as .npz: {error}", where=file, expected="arrays without objects"
        ) from None


def _part(arrays: Arrays, prefix: str, file: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[Any]]:
    images, labels = arrays.get(f"{prefix}images"), arrays.get(f"{prefix}labels")
    if images is None or labels is None:
        expected = f"{prefix}images and {prefix}labels"
        raise DataError("the arrays have other names", where=file, got=", ".join(arrays), expected=expected)
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


def _named(
    labels: npt.NDArray[Any], names: npt.NDArray[Any] | None, file: Path
) -> tuple[tuple[str, ...], npt.NDArray[np.int64]]:
    if names is None:
        distinct, numbers = np.unique(labels, return_inverse=True)
        return tuple(str(label) for label in distinct), numbers.astype(np.int64)
    if (
        names.ndim != 1
        or labels.dtype.kind == "U"
        or (len(labels) and not 0 <= labels.min() <= labels.max() < len(names))
    ):
        got = f"{labels.dtype}, {labels.min()} to {labels.max()}" if labels.dtype.kind != "U" else "strings"
        raise DataError(
            "the labels are no indices into 'classes'", where=file, got=got, expected=f"0 to {len(names) - 1}"
        )
    return tuple(str(name) for name in names), labels.astype(np.int64)


def _repeated(prefixes: list[str], parts: list[tuple[Any, Any]]) -> tuple[Split, ...]:
    named: dict[str, Split] = {f"{split}_": split for split in SPLITS}
    return tuple(named[prefix] for prefix, (images, _) in zip(prefixes, parts, strict=True) for _ in range(len(images)))
