"""Statistics of images, and a check whether they are varied enough to calibrate or score a model.

Thresholds come from `benchmarks/calibration_images.py`: statistics of images of CIFAR-10, Grocery, Omniglot,
ImageNet and digits, drawn at random and from one class, and the accuracy of a CIFAR-10 ResNet-20 in INT8 by the
contrast of its calibration images.
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

SAMPLED = 64  # images whose statistics are taken
SIDE, BLOCK = 64, 8  # pixels: side of a resized image, and of the blocks whose means are compared
# Standard deviations on a scale of 0 to 1. Real sets have a contrast of 0.15 and more (a single image: 0.04) and a
# spread of 0.06.
FAINT = 0.125  # contrast over all pixels; accuracy fell from 91.8 to 88% at 0.124, and to 68% at 0.05
ONE_COLOR = 0.01  # contrast within an image
SAME = 0.02  # spread of blocks over images, as a share of their contrast
ALIKE = 0.03  # spread of blocks over images
FAR_MEAN, FAR_STD = 3.0, 3.0  # mean and std of normalized images; real sets: up to 2.4 and 1.6


@dataclass(frozen=True)
class ImageStatistics:
    """Statistics of images, resized to (N, 64, 64, 3), on a scale of 0 to 1.

    Attributes:
        count: number of images.
        contrast: standard deviation over all pixels of all images.
        spread: standard deviation over images of the means of blocks of 8 × 8 pixels.
        one_color: share of images with a single color.
        mean: mean of red, green and blue.
        std: standard deviation of red, green and blue.
    """

    count: int
    contrast: float
    spread: float
    one_color: float
    mean: NDArray[np.float64]
    std: NDArray[np.float64]


def image_statistics(images: Sequence[NDArray[np.uint8]]) -> ImageStatistics:
    """Statistics of RGB images (H, W, 3), uint8, of any sizes."""
    fitted = np.stack(
        [
            fit_to_size(image, height=SIDE, width=SIDE, resize="crop", crop_pct=1.0, interpolation="bicubic")
            for image in images
        ]
    )
    pixels = fitted.astype(np.float64) / 255
    blocks = pixels.reshape(len(pixels), SIDE // BLOCK, BLOCK, SIDE // BLOCK, BLOCK, 3).mean((2, 4))
    return ImageStatistics(
        count=len(pixels),
        contrast=float(pixels.std()),
        spread=float(np.sqrt(blocks.var(0).mean())),
        one_color=float(np.mean(pixels.std((1, 2)).mean(-1) < ONE_COLOR)),
        mean=pixels.mean((0, 1, 2)),
        std=pixels.std((0, 1, 2)),
    )


def check_images(dataset: Dataset, preprocess: Preprocess, classes: Sequence[str], where: object) -> list[str]:
    """Reasons to doubt that images are like a model's usual input, a sentence each; from the first 64 images.

    Args:
        dataset: the images that calibrate or score the model, in any order.
        preprocess: the preprocessing of the model.
        classes: the classes of the model.
        where: the place that an error names.

    Raises:
        DataError: the images cannot calibrate or score a model: each has a single color, or all are copies of one.
    """
    if not len(dataset):
        return []
    statistics = image_statistics([dataset.image(position) for position in range(min(SAMPLED, len(dataset)))])
    _refuse_uniform(statistics, f"{where}, {dataset.name}")
    doubts = []
    if statistics.contrast < FAINT:
        doubts.append(f"their contrast is {statistics.contrast:.3f} of 1; photos and drawings have 0.15 and more")
    if statistics.one_color:
        doubts.append(f"{statistics.one_color:.0%} of them have a single color")
    if statistics.count > 1 and statistics.spread < ALIKE:
        doubts.append(
            f"they are nearly alike: they differ by {statistics.spread:.3f} of 1, other sets by 0.06 and more"
        )
    if (name := _only_class(dataset, classes)) is not None:
        doubts.append(f"all of them are of class '{name}'")
    return doubts + _far_from_normal(statistics, preprocess)


def _refuse_uniform(statistics: ImageStatistics, where: str) -> None:
    if statistics.one_color == 1:
        got = "images of a single color"
    elif statistics.count > 1 and statistics.spread < SAME * statistics.contrast:
        got = f"{statistics.count} copies of one image"
    else:
        return
    raise DataError(
        "these images cannot calibrate or score a model",
        where=where,
        got=got,
        expected="different images, each of more than one color",
        next="use images like those that the model will see, such as its training images",
    )


def _only_class(dataset: Dataset, classes: Sequence[str]) -> str | None:
    """The common class of all samples, or None: by labels, or by folders named after the model's classes."""
    if len(dataset) < 2:
        return None
    if dataset.labels is not None:
        names = {dataset.classes[label] for label in np.unique(dataset.labels)}
    else:
        names = {composed(PurePosixPath(sample).parent.name) for sample in dataset.sample_ids}
    return names.pop() if len(names) == 1 < len(classes) and names <= set(classes) else None


def _far_from_normal(statistics: ImageStatistics, preprocess: Preprocess) -> list[str]:
    """A doubt if the images, normalized by the model's mean and std, are far from mean 0 and std 1.

    A model with mean 0 only scales its input, so it is not checked.
    """
    model_mean, model_std = np.asarray(preprocess.mean), np.asarray(preprocess.std)
    if not model_mean.any():
        return []
    mean, std = (statistics.mean - model_mean) / model_std, statistics.std / model_std
    if np.abs(mean).max() <= FAR_MEAN and std.max() <= FAR_STD:
        return []
    return [
        f"normalized by the model's mean and std they have mean {mean[np.abs(mean).argmax()]:.1f} and std "
        f"{std.max():.1f}, not about 0 and 1: check the model's mean and std"
    ]
