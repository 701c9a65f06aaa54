"""Images for calibration, and images for the comparison of a quantized model with float."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgevit.artifacts import IOSpec
from edgevit.data import Dataset
from edgevit.data.image_statistics import check_images
from edgevit.errors import DataError
from edgevit.progress import Progress
from edgevit.quantization.calibration import Batches
from edgevit.runtimes.base import input_batches

BATCH_SIZE = 8
HELD_OUT = 64


@dataclass(frozen=True)
class ChosenImages:
    """Positions in a data set: images to calibrate on, and held-out images (calibration images if no other is left)."""

    calibration: tuple[int, ...]
    held_out: tuple[int, ...]


def choose_images(dataset: Dataset, count: int, seed: int, progress: Progress) -> ChosenImages:
    """Draw `count` calibration images and up to 64 held-out images by a seed.

    Raises:
        DataError: the data set is empty.
    """
    if not len(dataset):
        raise DataError("there are no calibration images", where=dataset.name, expected="at least one image")
    if len(dataset) < count:
        progress.say(f"{dataset.name} has {len(dataset)} images to calibrate on; {count} were requested")
    order = dataset.shuffled(seed).tolist()
    calibration, rest = order[:count], order[count : count + HELD_OUT]
    return ChosenImages(tuple(calibration), tuple(rest or calibration[:HELD_OUT]))


def images_beside(dataset: Dataset, used: Dataset) -> Dataset:
    """The images of `dataset` whose content is not in `used`, in their order; perhaps none. Both are hashed."""
    contents = set(used.contents())
    beside = [position for position, content in enumerate(dataset.contents()) if content not in contents]
    return dataset.subset(np.asarray(beside, np.int64))


def calibration_doubts(
    dataset: Dataset, chosen: ChosenImages, spec: IOSpec, where: object, progress: Progress
) -> list[str]:
    """Reasons why the calibration images may be unsuitable, a sentence each; they are reported too.

    Raises:
        DataError: the images cannot calibrate a model, see `check_images`.
    """
    calibration = dataset.subset(np.asarray(chosen.calibration))
    doubts = check_images(calibration, spec.preprocess, spec.classes, where)
    for doubt in doubts:
        progress.say(f"    {where}: doubtful calibration images: {doubt}")
    return doubts


def image_batches(dataset: Dataset, positions: Sequence[int], spec: IOSpec, progress: Progress, title: str) -> Batches:
    """A function that gives the images at `positions` as input batches; each call reads them anew."""

    def batches() -> Iterator[NDArray[np.float32]]:
        with progress.bar(title, len(positions), "images") as bar:
            images = (dataset.image(position) for position in positions)
            for batch, num_images in input_batches(spec, images, BATCH_SIZE):
                yield batch
                bar.advance(num_images)

    return batches
