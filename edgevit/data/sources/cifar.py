"""CIFAR-10 and CIFAR-100 from their official python files."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgevit.configs import Cifar, Splits
from edgevit.configs.fields import absolute_path
from edgevit.data.dataset import ArrayImages, Source, Split
from edgevit.data.preprocess import file_content
from edgevit.data.splits import split_by_hash
from edgevit.errors import DataError

_FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
_LABELS = {
    "cifar10": ("batches.meta", "label_names", "labels"),
    "cifar100": ("meta", "fine_label_names", "fine_labels"),
}
_FILES: dict[str, dict[str, Split]] = {
    "cifar10": {**{f"data_batch_{number}": "train" for number in range(1, 6)}, "test_batch": "test"},
    "cifar100": {"train": "train", "test": "test"},
}
_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
    "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    "meta": "7973b15100ade9c7d40fb424638fde48",
}


def read(config: Cifar, base: Path) -> Source:
    """Read the official files and check their md5 sums. Ids are "train/00000", …, in the official order.

    Raises:
        DataError: a file is missing or is not the official one.
    """
    folder = absolute_path(config.path, base)
    if (folder / _FOLDERS[config.source]).is_dir():
        folder = folder / _FOLDERS[config.source]
    names_file, names_key, labels_key = _LABELS[config.source]
    names = _official(folder / names_file)[names_key]
    pixels: list[npt.NDArray[np.uint8]] = []
    labels: list[int] = []
    ids: list[str] = []
    for file, split in _FILES[config.source].items():
        batch = _official(folder / file)
        first = sum(sample_id.startswith(split) for sample_id in ids)
        pixels.append(batch["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        labels += batch[labels_key]
        ids += [f"{split}/{first + index:05d}" for index in range(len(batch["data"]))]
    return Source(
        classes=tuple(names),
        ids=tuple(ids),
        labels=np.array(labels, np.int64),
        splits=_splits(tuple(ids), config.val_fraction),
        images=ArrayImages(np.concatenate(pixels), os.path.realpath(folder)),
    )


def _splits(ids: tuple[str, ...], val_fraction: float) -> tuple[Split, ...]:
    if val_fraction >= 1:
        raise DataError("no images are left to train on", got=f"val_fraction {val_fraction:g}", expected="below 1")
    in_train = split_by_hash(ids, Splits(val=val_fraction, test=0))
    return tuple("test" if name.startswith("test") else split for name, split in zip(ids, in_train, strict=True))


def _official(file: Path) -> dict[str, Any]:
    """The content of an official file, after a check of its md5 sum."""
    try:
        content = file_content(file)
    except (OSError, ValueError):
        raise DataError(
            "the official file is missing", where=file, next="unpack the 'python version' archive of the data set"
        ) from None
    got, expected = hashlib.md5(content, usedforsecurity=False).hexdigest(), _MD5[file.name]
    if got != expected:
        raise DataError("this is not the official file", where=file, got=f"md5 {got}", expected=f"md5 {expected}")
    batch: dict[str, Any] = _ArraysOnly(io.BytesIO(content), encoding="latin1").load()
    return batch


class _ArraysOnly(pickle.Unpickler):
    """Builds only numpy arrays and plain Python values."""

    def find_class(self, module: str, name: str) -> Any:
        allowed: dict[tuple[str, str], Any] = {
            ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a data file")
        return allowed[module, name]
