"""Do pictures show enough for a model to be calibrated or scored on them?

Thresholds come from `benchmarks/calibration_pictures.py`: statistics of pictures of CIFAR-10, Grocery, Omniglot,
ImageNet and digits, drawn at random and from one class, and the accuracy of a CIFAR-10 ResNet-20 in INT8 by the
contrast of its calibration pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from edgevit.artifacts import Preprocess, composed
from edgevit.data.dataset import Dataset
from edgevit.data.preprocess import fit_to_size
from edgevit.errors import DataError

SURVEYED = 64  # pictures
SIDE, BLOCK = 64, 8  # pixels of a picture as it is surveyed, and of the blocks whose means are compared
# Standard deviations on a scale of 0 to 1. Real sets: contrast 0.15 and more, of a single picture 0.04; spread 0.06.
FAINT = 0.125  # contrast over all pixels; accuracy fell from 91.8 to 88% at 0.124, and to 68% at 0.05
ONE_COLOUR = 0.01  # contrast within a picture
SAME = 0.02  # spread of blocks over pictures, as a share of their contrast
ALIKE = 0.03  # spread of blocks over pictures
FAR_MEAN, FAR_STD = 3.0, 3.0  # of normalised pictures; real sets: up to 2.4 and 1.6


@dataclass(frozen=True)
class ImageStatistics:
    """Statistics of pictures (N, 64, 64, 3) on a scale of 0 to 1.

    Attributes:
        contrast: standard deviation over all pixels of all pictures.
        spread: standard deviation over pictures, of means of 8 × 8 pixels.
        one_coloured: share of pictures without any contrast.
        mean: of each colour.
        std: of each colour.
    """

    count: int
    contrast: float
    spread: float
    one_coloured: float
    mean: NDArray[np.float64]
    std: NDArray[np.float64]


def image_statistics(pictures: Sequence[NDArray[np.uint8]]) -> ImageStatistics:
    """Statistics of RGB pictures (H, W, 3) of any sizes."""
    fitted = np.stack(
        [
            fit_to_size(picture, height=SIDE, width=SIDE, resize="crop", crop_pct=1.0, interpolation="bicubic")
            for picture in pictures
        ]
    )
    pixels = fitted.astype(np.float64) / 255
    blocks = pixels.reshape(len(pixels), SIDE // BLOCK, BLOCK, SIDE // BLOCK, BLOCK, 3).mean((2, 4))
    return ImageStatistics(
        count=len(pixels),
        contrast=float(pixels.std()),
        spread=float(np.sqrt(blocks.var(0).mean())),
        one_coloured=float(np.mean(pixels.std((1, 2)).mean(-1) < ONE_COLOUR)),
        mean=pixels.mean((0, 1, 2)),
        std=pixels.std((0, 1, 2)),
    )


def check_images(dataset: Dataset, preprocess: Preprocess, classes: Sequence[str], where: object) -> list[str]:
    """Doubts whether pictures show what a model sees, a sentence each; of many pictures the first 64 are looked at.

    Args:
        dataset: the pictures that calibrate or score a model, in any order.
        preprocess: the model's.
        classes: the model's.
        where: what errors name.

    Raises:
        DataError: they cannot calibrate or score a model: each has a single colour, or they are copies of one.
    """
    if not len(dataset):
        return []
    found = image_statistics([dataset.image(position) for position in range(min(SURVEYED, len(dataset)))])
    _refuse(found, f"{where}, {dataset.name}")
    doubts = []
    if found.contrast < FAINT:
        doubts.append(f"their contrast is {found.contrast:.3f} of 1, where photos and drawings have 0.15 and more")
    if found.one_coloured:
        doubts.append(f"{found.one_coloured:.0%} of them have a single colour")
    if found.count > 1 and found.spread < ALIKE:
        doubts.append(f"they are nearly alike: they differ by {found.spread:.3f} of 1, other sets by 0.06 and more")
    if (name := _only_class(dataset, classes)) is not None:
        doubts.append(f"all of them are of class '{name}'")
    return doubts + _far_from_normal(found, preprocess)


def _refuse(found: ImageStatistics, where: str) -> None:
    if found.one_coloured == 1:
        got = "pictures of a single colour"
    elif found.count > 1 and found.spread < SAME * found.contrast:
        got = f"{found.count} copies of one picture"
    else:
        return
    raise DataError(
        "these images cannot calibrate or score a model",
        where=where,
        got=got,
        expected="different pictures, each of more than one colour",
        next="take pictures of the kind that the model will see, such as those it was trained on",
    )


def _only_class(dataset: Dataset, classes: Sequence[str]) -> str | None:
    """The class of all samples, by labels or else by folders that are called after the model's classes."""
    if len(dataset) < 2:
        return None
    if dataset.labels is not None:
        names = {dataset.classes[label] for label in np.unique(dataset.labels)}
    else:
        names = {composed(PurePosixPath(sample).parent.name) for sample in dataset.sample_ids}
    return names.pop() if len(names) == 1 < len(classes) and names <= set(classes) else None


def _far_from_normal(found: ImageStatistics, preprocess: Preprocess) -> list[str]:
    """Whether mean and std of a model bring the pictures far from 0 and 1; mean 0 only scales."""
    given = np.asarray(preprocess.mean), np.asarray(preprocess.std)
    if not given[0].any():
        return []
    mean, std = (found.mean - given[0]) / given[1], found.std / given[1]
    if np.abs(mean).max() <= FAR_MEAN and std.max() <= FAR_STD:
        return []
    return [
        f"normalised by the model's mean and std they have mean {mean[np.abs(mean).argmax()]:.1f} and std "
        f"{std.max():.1f}, not about 0 and 1: check the model's mean and std"
    ]
