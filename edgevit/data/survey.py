"""A survey of a folder of images: layout, classes, splits, sizes, balance and duplicates, for the recipe of `init`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgevit.configs import ImageFolder
from edgevit.data.dataset import SPLITS, Source, Split
from edgevit.data.roles import read_source
from edgevit.data.sources.image_folder import split_folders
from edgevit.progress import Progress

SAMPLED = 256  # images whose size is read


@dataclass(frozen=True)
class LeftOut:
    """Files of one category that are not images of the data set.

    Attributes:
        category: "masks", "thumbnails" or another plural noun.
        names: paths relative to the folder, sorted.
    """

    category: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class DuplicateCounts:
    """Numbers of images that repeat another image.

    Attributes:
        exact_within: images with the content of an earlier image of their split.
        exact_across: images of val or test with the content of an image of train.
        near_within: images that look nearly like an earlier image of their split, without the exact copies.
        near_across: images of val or test that look nearly like an image of train, without the exact copies.
        compared: number of images that were compared.
    """

    exact_within: int = 0
    exact_across: int = 0
    near_within: int = 0
    near_across: int = 0
    compared: int = 0


@dataclass(frozen=True)
class FolderSurvey:
    """What a folder of images holds.

    Attributes:
        config: the data set as a recipe names it; `path` is absolute.
        classes: class names, sorted.
        counts: number of images by split and class; splits without an image are left out.
        has_split_folders: whether the folder has splits of its own. Otherwise `config.splits` divides it.
        unlabelled: the folder of images without labels, or None.
        unlabelled_images: number of images in it.
        median_size: median height and width of the images in pixels.
        imbalance: number of training images of the largest class over that of the smallest.
        left_out: files that are not images of the data set, by category.
        duplicates: numbers of repeated images.
        notes: plain sentences for the user.
    """

    config: ImageFolder
    classes: tuple[str, ...]
    counts: Mapping[Split, Mapping[str, int]]
    has_split_folders: bool
    unlabelled: Path | None
    unlabelled_images: int
    median_size: tuple[int, int]
    imbalance: float
    left_out: tuple[LeftOut, ...]
    duplicates: DuplicateCounts
    notes: tuple[str, ...]

    @property
    def images(self) -> int:
        """Number of labelled images."""
        return sum(sum(counts.values()) for counts in self.counts.values())

    @property
    def smallest_class(self) -> int:
        """Number of training images of the smallest class."""
        return min(self.counts["train"].values())


def survey_folder(
    folder: Path,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    unlabelled: Path | None = None,
    progress: Progress,
) -> FolderSurvey:
    """Look at a folder of images and at a sample of the images in it.

    Args:
        include: patterns of the image paths to keep; all if empty.
        exclude: patterns of the image paths to leave out.
        unlabelled: folder of images without labels; by default, one of the usual names beside the split folders.

    Raises:
        DataError: the folder is missing, or holds no images of two classes.
    """
    config = ImageFolder(
        source="image_folder",
        path=str(folder.absolute()),
        classes=_class_level(folder),
        include=tuple(include),
        exclude=tuple(exclude),
        unlabelled=None if unlabelled is None else str(unlabelled.absolute()),
    )
    source = read_source("photos", config, Path.cwd())
    counts = _counts(source)
    train = np.array(list(counts.get("train", {}).values()))
    return FolderSurvey(
        config=config,
        classes=source.classes,
        counts=counts,
        has_split_folders=bool(split_folders(folder, of_classes=True)),
        unlabelled=unlabelled,
        unlabelled_images=0,
        median_size=_median_size(source),
        imbalance=float(train.max() / max(train.min(), 1)) if len(train) else 1.0,
        left_out=(),
        duplicates=DuplicateCounts(),
        notes=source.notes,
    )


def _class_level(folder: Path) -> str:
    """`leaf` where class folders hold folders themselves."""
    tops = [folder / name for name in split_folders(folder, of_classes=True)] or [folder]
    class_folders = [inner for top in tops for inner in top.iterdir() if inner.is_dir()]
    nested = any(inner.is_dir() for class_folder in class_folders for inner in class_folder.iterdir())
    return "leaf" if nested else "top"


def _counts(source: Source) -> dict[Split, dict[str, int]]:
    assert source.labels is not None
    splits = np.array(source.splits)
    return {
        split: dict(
            zip(
                source.classes,
                np.bincount(source.labels[splits == split], minlength=len(source.classes)).tolist(),
                strict=True,
            )
        )
        for split in SPLITS
        if (splits == split).any()
    }


def _median_size(source: Source) -> tuple[int, int]:
    positions = np.linspace(0, len(source.ids) - 1, min(SAMPLED, len(source.ids))).astype(int).tolist()
    sizes = [source.images.decoded(source.images.content(position), position).shape[:2] for position in positions]
    height, width = np.median(np.array(sizes), axis=0).astype(int).tolist()
    return height, width
