"""Images of the user's task, on which the INT8 forms of students are compared with float."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgevit.artifacts import Artifact, IOSpec
from edgevit.data import open_dataset
from edgevit.runtimes.base import input_batches

CALIBRATION_IMAGES, HELD_OUT_IMAGES = 32, 32
BATCH_SIZE = 8
LARGEST_SIDE = 512  # about the short side that images are reduced to, so that large photos are decoded once

Batches = Sequence[NDArray[np.float32]]


class CheckBatches(NamedTuple):
    """Input batches (N, 3, H, W): images that calibrate, and images to compare on. They are the same in a small set."""

    calibration: Batches
    held_out: Batches


class CheckImages:
    """Images drawn from the data set that will calibrate the quantization. They are read once.

    Attributes:
        digest: of the data set.
    """

    def __init__(self, dataset: Artifact) -> None:
        self.digest, self._dataset = dataset.digest, dataset

    def batches(self, spec: IOSpec) -> CheckBatches:
        """The images as a model takes them."""
        calibration, held_out = self._images[:CALIBRATION_IMAGES], self._images[CALIBRATION_IMAGES:]
        return CheckBatches(
            *([batch for batch, _ in input_batches(spec, images, BATCH_SIZE)] for images in (
                calibration, held_out or calibration
            ))
        )  # fmt: skip

    @cached_property
    def _images(self) -> list[NDArray[np.uint8]]:
        dataset = open_dataset(self._dataset)
        drawn = dataset.shuffled(0)[: CALIBRATION_IMAGES + HELD_OUT_IMAGES]
        return [_reduced(dataset.image(position)) for position in drawn.tolist()]


def _reduced(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An image (H, W, 3) reduced by a whole factor, whose short side stays at least LARGEST_SIDE."""
    factor = min(image.shape[:2]) // LARGEST_SIDE
    return np.asarray(Image.fromarray(image).reduce(factor)) if factor > 1 else image
