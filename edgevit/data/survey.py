"""A survey of a folder of images, for the recipe of `init`: layout, classes, splits, sizes, balance and duplicates."""

from __future__ import annotations

import hashlib
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from edgevit.configs import FewShotDraw, ImageFolder, Splits
from edgevit.data.companions import IMAGE_FOLDERS, MASK_FOLDERS
from edgevit.data.dataset import NO_LABEL, SPLITS, Source, Split
from edgevit.data.folder_names import POOL_NAMES
from edgevit.data.near_duplicates import Look, look_of, near_duplicates
from edgevit.data.preprocess import is_image_name, is_system_folder
from edgevit.data.roles import read_source
from edgevit.data.sources.image_folder import folders_in, split_folders, unlabelled_folder
from edgevit.data.splits import unit_hash
from edgevit.errors import DataError, listed
from edgevit.progress import Progress

FEW_IMAGES_PER_CLASS = 20  # labelled images; below this, on average, all of them are the support
MOST_EXAMINED, MOST_SECONDS = 10_000, 60.0  # images that are opened, and the time after which no more are
BATCH = 64  # images that threads read at a time
MOST_REPEATED = 0.2  # share of inner folder names in several class folders; above it, they are no classes
_DATE = re.compile(r"(?:19|20)\d\d([-_. ]?)\d\d(?:\1\d\d)?(?!\d).*|\d\d?[-_. ]\d\d?[-_. ](?:19|20)\d\d", re.ASCII)
UNBALANCED = 3.0  # ratio of the largest to the smallest class from which a note tells it


@dataclass(frozen=True)
class LeftOut:
    """Files that are not images of the data set.

    Attributes:
        category: a plural noun, such as `companions.MASKS`.
        names: paths relative to the folder, sorted.
    """

    category: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class DuplicateCounts:
    """Numbers of images that repeat another image, among the examined ones.

    Attributes:
        exact_within: images with the content of an earlier image of their split.
        exact_across: images of val or test with the content of an image of train.
        near_within: images that look nearly like an earlier image of their split and are no exact copies.
        near_across: images of val or test that look nearly like an image of train and are no exact copies.
        compared: number of images that were compared.
    """

    exact_within: int
    exact_across: int
    near_within: int
    near_across: int
    compared: int


@dataclass(frozen=True)
class FolderSurvey:
    """What a folder of images holds.

    Attributes:
        config: the data set as a recipe names it, with an absolute path. It may begin at a subfolder of the folder.
        classes: class names, sorted.
        counts: number of images by split and class; a split without an image is left out.
        has_split_folders: whether the folder has splits of its own. Otherwise `config.splits` divides it.
        unlabelled: the folder of images without labels, or None.
        unlabelled_images: number of images in it.
        median_size: median height and width of the images in pixels.
        imbalance: number of training images of the largest class over that of the smallest.
        left_out: files that are not images of the data set, by category.
        unreadable: names of examined images that cannot be read, with the reason.
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
    unreadable: tuple[str, ...]
    duplicates: DuplicateCounts
    notes: tuple[str, ...]

    @property
    def images(self) -> int:
        """Number of labelled images."""
        return sum(sum(counts.values()) for counts in self.counts.values())

    @property
    def is_few_shot(self) -> bool:
        """Whether there are few labelled images: all of them are the support, and `config` has a block `few_shot`."""
        return self.config.few_shot is not None

    @property
    def has_pool(self) -> bool:
        """Whether there are images without labels."""
        return self.unlabelled_images > 0


def survey_folder(
    folder: Path,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    unlabelled: Path | None = None,
    progress: Progress,
) -> FolderSurvey:
    """Look at a folder of images, and open up to MOST_EXAMINED of them, for MOST_SECONDS at most.

    With few labelled images and no split folders, `config` keeps no image for validation and test: all labels are used,
    and accuracy is by cross-validation.

    Args:
        include: patterns of image paths to keep; all if empty.
        exclude: patterns of image paths to leave out.
        unlabelled: folder of images without labels; by default, one of the usual names in the folder.

    Raises:
        DataError: the folder is missing, or holds no images of two classes, or a class has no training image, or no
            image can be read.
    """
    root, pool = _start_of_images(folder, unlabelled)
    class_level = _class_level(root, pool)
    config = ImageFolder(
        source="image_folder",
        path=str(root.absolute()),
        classes=class_level.level,
        include=tuple(include),
        exclude=tuple(exclude),
        unlabelled=None if pool is None else str(pool.absolute()),
    )
    has_split_folders = bool(split_folders(root, of_classes=True))
    config, source = _with_few_shot(config, read_source("photos", config, Path.cwd()), has_split_folders)
    _check_training_images(_counts(source), root)
    examined = _examine(source, progress)
    if not examined.positions:
        raise DataError("no image can be read", where=root, got=listed(list(examined.unreadable)))
    counts = _counts(source, without=examined.unreadable_positions)
    _check_training_images(counts, root)
    train = np.array(list(counts["train"].values()))
    left_out = tuple(LeftOut(category, names) for category, names in source.passed_over.items())
    sizes = np.array([look.size for look in examined.looks])
    duplicates = _duplicates(source, examined)
    imbalance = float(train.max() / train.min())
    return FolderSurvey(
        config=config,
        classes=source.classes,
        counts=counts,
        has_split_folders=has_split_folders,
        unlabelled=unlabelled_folder(config, Path.cwd()),
        unlabelled_images=_unlabelled_images(source),
        median_size=(int(np.median(sizes[:, 0])), int(np.median(sizes[:, 1]))),
        imbalance=imbalance,
        left_out=left_out,
        unreadable=examined.unreadable,
        duplicates=duplicates,
        notes=(
            *source.notes,
            *class_level.notes,
            *_empty_class_notes(root, config, source),
            *_notes(examined, duplicates, imbalance, counts),
        ),
    )


def _start_of_images(folder: Path, unlabelled: Path | None) -> tuple[Path, Path | None]:
    """The folder, or its only subfolder of labelled images, at any depth; and the folder of unlabelled images.

    A folder of unlabelled images beside the subfolder is not counted.
    """
    if not folder.is_dir():
        raise DataError("there is no such folder", where=folder, next="correct the path")
    inner = [subfolder for subfolder in _subfolders(folder) if subfolder.name.lower() not in MASK_FOLDERS]
    pools = [subfolder for subfolder in inner if _is_pool(subfolder, unlabelled)]
    labelled = [subfolder for subfolder in inner if subfolder not in pools]
    if len(labelled) != 1 or _has_images(folder) or not _subfolders(labelled[0]):
        return folder, unlabelled
    if split_folders(folder, of_classes=True):
        return folder, unlabelled
    return _start_of_images(labelled[0], unlabelled or (pools[0] if len(pools) == 1 else None))


def _is_pool(folder: Path, unlabelled: Path | None) -> bool:
    """Whether a folder beside class folders holds the unlabelled images: `unlabelled`, or one of a usual name."""
    if unlabelled is not None and folder.resolve() == unlabelled.resolve():
        return True
    return folder.name.lower() in POOL_NAMES - {"pool"}


class _ClassLevel(NamedTuple):
    level: Literal["top", "leaf"]
    notes: tuple[str, ...]


def _class_level(root: Path, unlabelled: Path | None) -> _ClassLevel:
    """`leaf` where class folders hold folders that may be classes themselves, with a note if there are inner folders.

    Folders such as `Imgs` and `masks` are no classes. Folders whose names are dates, or repeat in several class
    folders, are none either.
    """
    tops = [root / name for name in split_folders(root, of_classes=True)] or [root]
    class_folders = [inner for top in tops for inner in _subfolders(top) if not _is_pool(inner, unlabelled)]
    inner_names: dict[str, set[str]] = {}
    for class_folder in class_folders:
        names = {inner.name.lower() for inner in _subfolders(class_folder)} - IMAGE_FOLDERS - MASK_FOLDERS
        inner_names.setdefault(class_folder.name, set()).update(names)
    places = Counter(name for names in inner_names.values() for name in names)
    if not places:
        return _ClassLevel("top", ())
    outer, inner = listed(sorted(inner_names)), listed(sorted(places))
    repeated = sum(count > 1 for count in places.values())
    are_dates = all(map(_DATE.fullmatch, places))
    if are_dates or repeated > MOST_REPEATED * len(places) or any(map(_has_images, class_folders)):
        hint = "if they are the classes, start at the folder that holds them, or set classes: leaf"
        return _ClassLevel(
            "top", (f"the classes are the outer folders ({outer}), not those in them ({inner}); {hint}",)
        )
    hint = "if the outer folders are the classes, set classes: top"
    return _ClassLevel("leaf", (f"the classes are the inner folders ({inner}), not the outer ones ({outer}); {hint}",))


def _empty_class_notes(root: Path, config: ImageFolder, source: Source) -> Iterator[str]:
    """A note about folders beside the class folders that hold no image of the data set."""
    tops = [root / name for name in split_folders(root, of_classes=True)] or [root]
    pool = unlabelled_folder(config, Path.cwd())
    folders = {folder.name for top in tops for folder in _subfolders(top) if folder != pool}
    with_images = {name for sample_id in source.ids for name in sample_id.split("/")[:-1]}
    empty = sorted(name for name in folders - with_images if name.lower() not in IMAGE_FOLDERS | MASK_FOLDERS)
    if empty:
        yield f"folders without an image are no classes: {listed(empty)}"


def _subfolders(folder: Path) -> list[Path]:
    """The subfolders that may hold images."""
    return [path for path in folders_in(folder) if not path.is_symlink() and not is_system_folder(path.name)]


def _has_images(folder: Path) -> bool:
    return any(is_image_name(path.name) and path.is_file() for path in folder.iterdir())


def _with_few_shot(config: ImageFolder, source: Source, has_split_folders: bool) -> tuple[ImageFolder, Source]:
    """Config and source with all labelled images as the support, if there are few of them."""
    counts = _counts(source)
    training = sum(sum(counts[split].values()) for split in counts if split == "train" or not has_split_folders)
    if not training or training / len(source.classes) >= FEW_IMAGES_PER_CLASS:
        return config, source
    if not has_split_folders:
        config = config.model_copy(update={"splits": Splits(val=0, test=0)})
        source = replace(source, splits=tuple("train" if split in SPLITS else split for split in source.splits))
    return config.model_copy(update={"few_shot": FewShotDraw(shots="all")}), source


def _counts(source: Source, without: Sequence[int] = ()) -> dict[Split, dict[str, int]]:
    """The number of images by split and class, not counting the positions `without`."""
    assert source.labels is not None, "the classes of a survey are folders"
    splits = np.array(source.splits, object)
    splits[list(without)] = None
    by_split: dict[Split, dict[str, int]] = {}
    for split in SPLITS:
        if (splits == split).any():
            numbers = np.bincount(source.labels[splits == split], minlength=len(source.classes)).tolist()
            by_split[split] = dict(zip(source.classes, numbers, strict=True))
    return by_split


def _check_training_images(counts: Mapping[Split, Mapping[str, int]], root: Path) -> None:
    empty = [name for name, count in counts.get("train", {}).items() if not count]
    if empty or "train" not in counts:
        raise DataError(
            "classes have no training image that can be read",
            where=root,
            got=listed(empty) or "no training images",
            expected="images of each class in the training folder",
            next="move images of these classes there, or put the class folders side by side without split folders",
        )


def _unlabelled_images(source: Source) -> int:
    assert source.labels is not None
    return int((source.labels == NO_LABEL).sum())


class _Examined(NamedTuple):
    """The images that were opened: positions in the source, looks, hashes of their content.

    Attributes:
        unreadable: the images that cannot be read, with the reason.
        unreadable_positions: their positions in the source.
        is_whole: whether all images were opened.
    """

    positions: list[int]
    looks: list[Look]
    contents: list[bytes]
    unreadable: tuple[str, ...]
    unreadable_positions: tuple[int, ...]
    is_whole: bool


def _examine(source: Source, progress: Progress) -> _Examined:
    """Open images in an order that depends on ids and splits, until there are enough or the time is over."""
    wanted = _wanted(source)
    positions: list[int] = []
    looks: list[Look] = []
    contents: list[bytes] = []
    unreadable: dict[int, str] = {}
    end = time.monotonic() + MOST_SECONDS
    with ThreadPoolExecutor() as pool, progress.bar("looking at images", len(wanted), "images") as bar:
        for start in range(0, len(wanted), BATCH):
            batch = wanted[start : start + BATCH]
            for position, (content, look) in zip(batch, pool.map(lambda p: _look(source, p), batch), strict=True):
                if isinstance(look, str):
                    unreadable[position] = f"{source.ids[position]} ({look})"
                else:
                    positions.append(position)
                    looks.append(look)
                    contents.append(content)
                bar.advance()
            if time.monotonic() > end:
                break
    whole = len(positions) + len(unreadable) == len(source.ids)
    return _Examined(positions, looks, contents, tuple(sorted(unreadable.values())), tuple(unreadable), whole)


def _wanted(source: Source) -> list[int]:
    """Up to MOST_EXAMINED positions: those of val and test first, at most half where train has more; then train."""
    order = sorted(range(len(source.ids)), key=lambda position: unit_hash(f"survey/{source.ids[position]}"))
    held_out = [position for position in order if source.splits[position] in ("val", "test")]
    train = [position for position in order if source.splits[position] == "train"]
    pool = [position for position in order if source.splits[position] not in SPLITS]
    most_held_out = max(MOST_EXAMINED // 2, MOST_EXAMINED - len(train))
    return [*held_out[:most_held_out], *train, *pool][:MOST_EXAMINED]


def _look(source: Source, position: int) -> tuple[bytes, Look | str]:
    """The hash of an image's content, and its look or the reason why it cannot be read."""
    try:
        content = source.images.content(position)
        return hashlib.sha256(content).digest(), look_of(content)
    except DataError as error:
        return b"", error.what
    except (OSError, ValueError) as error:
        return b"", str(error)


def _duplicates(source: Source, examined: _Examined) -> DuplicateCounts:
    splits = [source.splits[position] for position in examined.positions]
    of_split = {split: [index for index, other in enumerate(splits) if other == split] for split in SPLITS}
    exact_within = near_within = exact_across = near_across = 0
    train_contents = {examined.contents[index] for index in of_split["train"]}
    for split, indices in of_split.items():
        first = {examined.contents[index]: index for index in reversed(indices)}
        distinct = sorted(first.values())
        exact_within += len(indices) - len(distinct)
        looks = [examined.looks[index] for index in distinct]
        near_within += int((near_duplicates(looks) >= 0).sum())
        if split != "train":
            apart = [index for index in indices if examined.contents[index] not in train_contents]
            exact_across += len(indices) - len(apart)
            train_looks = [examined.looks[index] for index in of_split["train"]]
            near_across += int((near_duplicates([examined.looks[index] for index in apart], train_looks) >= 0).sum())
    return DuplicateCounts(exact_within, exact_across, near_within, near_across, sum(map(len, of_split.values())))


def _notes(
    examined: _Examined, duplicates: DuplicateCounts, imbalance: float, counts: Mapping[Split, Mapping[str, int]]
) -> Iterator[str]:
    at_least = "" if examined.is_whole else f"of the {len(examined.positions):,} looked at, at least "
    if not examined.is_whole:
        yield f"not all images were looked at: {len(examined.positions):,}, drawn by the hash of their names"
    if examined.unreadable:
        unreadable = f"{len(examined.unreadable)} images cannot be read and are skipped"
        yield f"{at_least}{unreadable}: {listed(list(examined.unreadable))}"
    if imbalance >= UNBALANCED:
        train = counts["train"]
        largest, smallest = max(train, key=lambda name: train[name]), min(train, key=lambda name: train[name])
        sizes = f"'{largest}' has {train[largest]} training images, '{smallest}' has {train[smallest]}"
        yield f"classes are unbalanced: {sizes}"
    across = duplicates.exact_across + duplicates.near_across
    if across:
        yield (
            f"{at_least}{across} images of val or test are copies of training images or look nearly like one: "
            "accuracy on them says little about new images"
        )
    if within := duplicates.exact_within + duplicates.near_within:
        yield f"{at_least}{within} images are copies of another image of their split or look nearly like one"
