"""What callers may pass for images and data sets, as the files and artifacts that stages read."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgevit.api.arguments import argument, path_argument
from edgevit.api.workspace import new_folder
from edgevit.artifacts import Artifact
from edgevit.configs import Npz
from edgevit.data import dataset_artifacts
from edgevit.data.images import as_rgb
from edgevit.errors import DataError

if TYPE_CHECKING:
    from edgevit.actions.single_stage import SingleStages


ImageLike = str | Path | Image.Image | NDArray[np.uint8]


class LabelledImages(Protocol):
    """A data set as torchvision has them: `classes`, a length, and (image, index of the class) by position."""

    @property
    def classes(self) -> Sequence[str]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Any, int]: ...


Data = str | Path | LabelledImages


def named_images(images: ImageLike | Sequence[ImageLike]) -> list[Path | NDArray[np.uint8]]:
    """Files and folders as paths, images in memory as arrays (H, W, 3) uint8 RGB.

    Raises:
        DataError: an array has another shape or type.
    """
    several = images if isinstance(images, Sequence) and not isinstance(images, str) else [images]
    where = argument("Model.predict", "images")
    return [path_argument(image, where) if isinstance(image, str | Path) else _rgb(image, where) for image in several]


@contextmanager
def labelled_images(data: Data, stages: SingleStages, where: str) -> Iterator[Artifact]:
    """A folder CLASS/*.jpg (its test split where there is one), or a data set object, inside the block.

    Args:
        where: the argument, as errors name it.
    """
    with _images(data, stages.labelled_images, where) as images:
        yield images


@contextmanager
def support_images(data: Data, stages: SingleStages, where: str) -> Iterator[Artifact]:
    """A folder CLASS/*.jpg as it is, or a data set object, inside the block."""
    with _images(data, stages.support_images, where) as images:
        yield images


@contextmanager
def unlabelled_images(data: Data, stages: SingleStages, where: str) -> Iterator[Artifact]:
    """Every image below a folder, or of a data set object, inside the block."""
    with _images(data, stages.unlabelled_images, where) as images:
        yield images


@contextmanager
def _images(data: Data, of_folder: Callable[[Path], Artifact], where: str) -> Iterator[Artifact]:
    """The images of a folder, or of a data set object: a copy that is removed after the block."""
    if isinstance(data, str | Path):
        yield of_folder(path_argument(data, where))
        return
    folder = new_folder("data")
    try:
        yield _from_object(data, folder / "images.npz", where)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _from_object(data: LabelledImages, file: Path, where: str) -> Artifact:
    """The data set, copied to an .npz file.

    Raises:
        DataError: the object has no classes, or its images differ in size.
    """
    if not (hasattr(data, "classes") and hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        raise DataError(
            "this is no data set",
            where=where,
            got=type(data).__name__,
            expected="a folder, or an object with `classes`, a length, and (image, class index) by position",
        )
    if not len(data):
        raise DataError(
            "the data set object holds no images",
            where=where,
            got=type(data).__name__,
            expected="a length of 1 or more",
        )
    images, labels = zip(*_samples(data, where), strict=True)
    if len(sizes := {image.shape for image in images}) > 1:
        raise DataError(
            "the images of a data set object differ in size",
            where=where,
            got=", ".join(f"{height} × {width}" for height, width, _ in sorted(sizes)[:3]),
            expected="one size",
            next="give a folder CLASS/*.png, whose images may differ in size, or resize them",
        )
    np.savez(file, images=np.stack(images), labels=np.array(labels, np.int64), classes=np.array(data.classes, np.str_))
    config = Npz(source="npz", path=str(file))
    return dataset_artifacts({"images": config}, file.parent, ["images"])["images"]


def _samples(data: LabelledImages, where: str) -> Iterator[tuple[NDArray[np.uint8], int]]:
    for position in range(len(data)):
        image, label = data[position]
        if not 0 <= int(label) < len(data.classes):
            raise DataError(
                "the label is no index into the classes",
                where=f"{where}, sample {position}",
                got=label,
                expected=f"0 to {len(data.classes) - 1}",
            )
        yield _rgb(image, f"{where}, sample {position}"), int(label)


def _rgb(image: Any, where: str) -> NDArray[np.uint8]:
    pixels = np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image)
    has_channels = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (1, 3))
    if pixels.dtype != np.uint8 or not has_channels or not pixels.size:
        raise DataError(
            "this is no image",
            where=where,
            got=f"{type(image).__name__} of shape {pixels.shape} and type {pixels.dtype}",
            expected="a file, a PIL image, or an array (height, width, 3) of uint8, RGB",
        )
    return as_rgb(pixels)
