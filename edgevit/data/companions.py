"""Files that belong to a photo and are not photos: segmentation masks and thumbnails, found by name and content."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath

import numpy as np

from edgevit.data.images import Image
from edgevit.errors import DataError

MASKS = "masks of other images"
THUMBNAILS = "thumbnails of other images"

MASK_FOLDERS = frozenset(
    {"mask", "masks", "gt", "ground_truth", "groundtruth", "annotation", "annotations", "segmentation", "segmentations"}
)
IMAGE_FOLDERS = frozenset(
    {"img", "imgs", "image", "images", "photo", "photos", "picture", "pictures", "jpg", "jpeg", "png", "rgb", "raw"}
)
EXAMINED = 16  # images of a naming scheme whose pixels are looked at
FEW_VALUES, MOST_PIXELS = 8, 0.95  # a mask's most common gray values have at least this share of the pixels
USUAL = 0.8  # share of the examined images that must look like masks

_MASK_ENDING = re.compile(r"[ ._-](mask|masks|gt|seg|segmentation|label|labels|annotation)\Z", re.IGNORECASE)
_THUMBNAIL_ENDING = re.compile(r"[ ._-](thumb|thumbnail)\Z", re.IGNORECASE)

ReadImage = Callable[[str], Image]


def companions(paths: Sequence[str], read: ReadImage, *, with_masks: bool = True) -> dict[str, list[str]]:
    """The paths of masks and of thumbnails among images, by category (MASKS, THUMBNAILS).

    A mask has the name of another image, apart from an ending such as `_mask`, the suffix of the file, or the name of
    its folder (MASK_FOLDERS), and holds few gray values. Up to EXAMINED images of each way of naming are read to see
    this. Of files that differ in their suffix alone, one is kept where all hold few gray values; a PNG file is kept
    only if there is no other. A thumbnail has the name of another image of its folder with the ending `_thumb` or
    `_thumbnail`.

    Args:
        paths: relative paths with "/".
        read: reads the image of a path, uint8 (height, width, 3). Raises DataError if it cannot be read.
        with_masks: look for masks, which reads images.
    """
    by_place: dict[tuple[str, str], list[str]] = {}
    for path in paths:
        by_place.setdefault(_place(path), []).append(path)
    by_category = {
        THUMBNAILS: sorted(path for path in paths if _original(path, _THUMBNAIL_ENDING) in by_place),
        MASKS: sorted(_masks(paths, by_place, read)) if with_masks else [],
    }
    return {category: named for category, named in by_category.items() if named}


def has_few_values(image: Image) -> bool:
    """Whether nearly all pixels of an image (height, width, 3) have one of few gray values, as in a mask."""
    counts = np.sort(np.bincount(image.mean(-1).astype(np.uint8).ravel(), minlength=256))
    return bool(counts[-FEW_VALUES:].sum() >= MOST_PIXELS * counts.sum())


def _place(path: str) -> tuple[str, str]:
    """The folder of a path, and its name without the suffix."""
    folder, _, name = path.rpartition("/")
    stem, _, _ = name.rpartition(".")
    return folder or ".", stem or name


def _original(path: str, ending: re.Pattern[str]) -> tuple[str, str] | None:
    """The place of the image that `path` is named after, if its name has the ending."""
    folder, stem = _place(path)
    match = ending.search(stem)
    return (folder, stem[: match.start()]) if match else None


def _masks(paths: Sequence[str], by_place: Mapping[tuple[str, str], list[str]], read: ReadImage) -> Iterator[str]:
    """Images that are named like masks and look like masks, but not all the files of one place."""
    looking_like_masks = {
        path: way
        for (way, _), candidates in _mask_candidates(paths, by_place).items()
        if _are_masks(candidates, read)
        for path in candidates
    }
    for path, way in looking_like_masks.items():
        files = by_place[_place(path)]
        all_look_like_masks = way == "suffix" and looking_like_masks.keys() >= set(files)
        if not all_look_like_masks or path != min(files, key=lambda file: (file.lower().endswith(".png"), file)):
            yield path


def _mask_candidates(
    paths: Iterable[str], by_place: Mapping[tuple[str, str], list[str]]
) -> dict[tuple[str, str], list[str]]:
    """Images that are named like masks of other images, by the way of naming."""
    originals = {(_without_mask_folder(folder), stem) for folder, stem in by_place if not _in_mask_folder(folder)}
    candidates: dict[tuple[str, str], list[str]] = {}
    for path in paths:
        for scheme in _schemes(path, by_place, originals):
            candidates.setdefault(scheme, []).append(path)
            break
    return candidates


def _schemes(
    path: str, by_place: Mapping[tuple[str, str], list[str]], originals: set[tuple[str, str]]
) -> Iterator[tuple[str, str]]:
    """The ways of naming by which `path` may be a mask."""
    folder, stem = _place(path)
    ending = _MASK_ENDING.search(stem)
    if _in_mask_folder(folder):
        base = stem[: ending.start()] if ending else stem
        if (_without_mask_folder(folder), base) in originals:
            yield "folder", ""
    if ending and (folder, stem[: ending.start()]) in by_place:
        yield "ending", ending.group().lower()
    if len(by_place[folder, stem]) > 1:
        yield "suffix", PurePosixPath(path).suffix.lower()


def _in_mask_folder(folder: str) -> bool:
    return any(name.lower() in MASK_FOLDERS for name in folder.split("/"))


def _without_mask_folder(folder: str) -> str:
    """The path of a folder without names that tell images and masks apart: `cat/images` and `cat/masks` → `cat`."""
    names = (name for name in folder.split("/") if name.lower() not in MASK_FOLDERS | IMAGE_FOLDERS)
    return "/".join(names)


def _are_masks(candidates: Sequence[str], read: ReadImage) -> bool:
    """Whether most of an even sample of the candidates have few values."""
    sample = [candidates[index] for index in np.linspace(0, len(candidates) - 1, EXAMINED).astype(int)]
    verdicts = []
    for path in dict.fromkeys(sample):
        try:
            verdicts.append(has_few_values(read(path)))
        except DataError:
            continue
    return bool(verdicts) and float(np.mean(verdicts)) >= USUAL
