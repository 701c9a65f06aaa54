"""scikit-learn's scanned handwritten digits."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgevit.configs import Digits
from edgevit.data.dataset import ArrayImages, Source, Split
from edgevit.data.splits import lowest_of_each_class

SIZE = 32
_INK = 16  # the largest value in the scans


def read(config: Digits, base: Path) -> Source:
    """The 1,797 digits of `sklearn.datasets.load_digits` (8×8, values 0..16), as 32×32 gray, light ink on dark.

    A dark border of one pixel is added to each scan, and the 10×10 result is enlarged with bicubic resampling, so that
    digits and glyphs have similar margins. The test half is fixed: the samples of each class with the lower hashes of
    their ids.
    """
    from sklearn.datasets import load_digits

    scans = load_digits()
    labels = scans.target.astype(np.int64)
    ids = tuple(f"{index:04d}" for index in range(len(labels)))
    in_test = np.zeros(len(labels), bool)
    for label in range(10):
        members = np.flatnonzero(labels == label)
        half = lowest_of_each_class([ids[i] for i in members], labels[members], len(members) // 2, seed="digits")
        in_test[members[half]] = True
    splits: tuple[Split, ...] = tuple("test" if is_test else "train" for is_test in in_test)
    return Source(tuple("0123456789"), ids, labels, splits, ArrayImages(_pixels().copy(), "digits"))


@cache
def _pixels() -> npt.NDArray[np.uint8]:
    from sklearn.datasets import load_digits

    return np.stack([_enlarged(np.round(scan * (255 / _INK)).astype(np.uint8)) for scan in load_digits().images])


def _enlarged(scan: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    framed = Image.fromarray(np.pad(scan, 1))
    return np.asarray(framed.resize((SIZE, SIZE), Image.Resampling.BICUBIC))
