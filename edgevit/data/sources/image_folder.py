"""Images in folders that are named after their classes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from edgevit.configs import ImageFolder
from edgevit.configs.fields import absolute_path
from edgevit.data.class_names import composed
from edgevit.data.companions import companions
from edgevit.data.dataset import SPLITS, Labels, Source, Split, with_unlabelled
from edgevit.data.folder_names import GIVE_CLASSES, POOL_NAMES
from edgevit.data.hashes import ImageState, ImageStates, StoredFile, content_of
from edgevit.data.images import NO_TEXT, Image, is_utf8_name, read_image
from edgevit.data.links import leads_out
from edgevit.data.path_patterns import matches_any
from edgevit.data.preprocess import image_suffixes, images_below, passed_over_notes, printable_path
from edgevit.data.splits import split_by_hash, split_named
from edgevit.errors import DataError

IN_NO_CLASS_FOLDER = "images outside of class folders"
LEADING_OUT = "links that lead out of the folder"
BESIDE_SPLITS = "files and folders beside the split folders"
BY_PATTERNS = "images that include or exclude leave out"

PassedOver = dict[str, list[Path]]  # by category


@dataclass(frozen=True, order=True)
class _Sample:
    id: str
    class_folders: tuple[str, ...]  # the folders between the split (or PATH) and the image


def read(config: ImageFolder, base: Path) -> Source:
    """List the images PATH/{train,val,test}/CLASS/… if there is a training folder, otherwise PATH/CLASS/…

    With `classes: none` there are no class folders and no labels: the images are those at any depth. Symbolic links
    that lead out of PATH and links to folders are not followed. Images that `include` and `exclude` leave out, masks
    and thumbnails are passed over. A note tells the number of passed-over files and the first names of each category.
    The images of the folder of unlabelled images have the split UNLABELLED_SPLIT.

    Raises:
        DataError: PATH is missing, is not a folder, has no images in the expected layout, or has two folders of one
            split; or a folder in it cannot be listed.
    """
    listing = _listing(config, base)
    root, samples, notes = listing.root, listing.samples, list(passed_over_notes(listing.passed_over, listing.root))
    notes += _idle_pattern_notes(listing, config)
    if not samples:
        raise _no_images(root, listing.split_of_folder, config.classes != "none", notes)
    ids, passed_over = tuple(sample.id for sample in samples), _relative(listing.passed_over, root)
    if config.classes == "none":
        splits = _splits(ids, listing.split_of_folder, config, None)
        return Source((), ids, None, splits, FolderImages(root, ids), tuple(notes), passed_over)
    level = 0 if config.classes == "top" else -1
    classes, labels = np.unique([composed(sample.class_folders[level]) for sample in samples], return_inverse=True)
    if config.classes == "leaf":
        notes += _merged_class_notes({tuple(map(composed, sample.class_folders)) for sample in samples})
    if listing.unlabelled:
        notes.append(f"{len(listing.unlabelled)} images have no labels and are the role pool")
    splits = _splits(ids, listing.split_of_folder, config, labels)
    images = FolderImages(root, (*ids, *listing.unlabelled.values()))
    source = Source(tuple(classes.tolist()), ids, labels.astype(np.int64), splits, images, tuple(notes), passed_over)
    return with_unlabelled(source, tuple(listing.unlabelled))


def split_folders(root: Path, of_classes: bool) -> dict[str, Split]:
    """The split of each folder of `root` that has the name of a split; {} if there is no training folder.

    Args:
        of_classes: whether splits hold class folders. Then a folder `train` without subfolders, beside folders that are
            not splits, is a class.

    Raises:
        DataError: two folders serve as one split.
    """
    folders = folders_in(root)
    named = {folder.name: split for folder in folders if (split := split_named(folder.name))}
    training = [name for name, split in named.items() if split == "train"]
    if of_classes and len(named) < len(folders):
        training = [name for name in training if folders_in(root / name)]
    if not training:
        return {}
    for split in SPLITS:
        if len(names := [name for name in named if named[name] == split]) > 1:
            raise DataError(
                f"two folders serve as {split}", where=root, got=", ".join(names), next="rename one of them"
            )
    return named


def unlabelled_folder(config: ImageFolder, base: Path) -> Path | None:
    """The folder of images without labels: the one that the config names, or one of a usual name in PATH, or None.

    `pool` is such a name only beside split folders: elsewhere it may be a class.

    Raises:
        DataError: the folder that the config names is missing, or two folders have a usual name.
    """
    if config.classes == "none":
        return None
    if config.unlabelled is not None:
        named = absolute_path(config.unlabelled, base)
        _check_folder(named)
        return named
    root = absolute_path(config.path, base)
    usual = POOL_NAMES if split_folders(root, of_classes=True) else POOL_NAMES - {"pool"}
    present = [folder for folder in folders_in(root) if folder.name.lower() in usual]
    if len(present) > 1:
        got = ", ".join(folder.name for folder in present)
        raise DataError("two folders hold images without labels", where=root, got=got, next="give unlabelled: FOLDER")
    return present[0] if present else None


def folder_of_tests(root: Path) -> Path:
    """The folder of `root` that is named as a test split and has class folders; `root` itself if there is none."""
    tests = (folder for folder in folders_in(root) if split_named(folder.name) == "test")
    return next((folder for folder in tests if folders_in(folder)), root)


@dataclass(frozen=True)
class FolderImages:
    """Image files below `root`, read on demand."""

    root: Path
    paths: tuple[str, ...]

    def content(self, index: int) -> bytes:
        stored = self._stored(index)
        return content_of(stored, str(stored.file))

    def decoded(self, content: bytes, index: int) -> Image:
        return read_image(content, str(self._stored(index).file))

    def place(self, index: int) -> str:
        return os.path.realpath(self._stored(index).file)

    def states(self, indices: Sequence[int], known: ImageStates) -> list[ImageState]:
        return known.of(map(self._stored, indices))

    def _stored(self, index: int) -> StoredFile:
        return StoredFile(self.root / self.paths[index])


@dataclass(frozen=True)
class _Listing:
    """The files of a data set.

    Attributes:
        split_of_folder: the split of each split folder; {} if there are none.
        unlabelled_folder: of images without labels; None if there is none.
        unlabelled: the path of each image without a label, relative to `root` or absolute, by its id.
    """

    root: Path
    split_of_folder: Mapping[str, Split]
    samples: Sequence[_Sample]
    unlabelled_folder: Path | None
    unlabelled: Mapping[str, str]
    passed_over: PassedOver


def _listing(config: ImageFolder, base: Path) -> _Listing:
    root = absolute_path(config.path, base)
    _check_folder(root)
    labelled = config.classes != "none"
    split_of_folder = split_folders(root, labelled)
    folder = unlabelled_folder(config, base)
    passed_over: PassedOver = {}
    samples = sorted(_samples(root, split_of_folder, labelled, passed_over, folder))
    kept = _without_left_out(samples, config, root, passed_over)
    unlabelled = {} if folder is None else _unlabelled(folder, root, config, passed_over)
    return _Listing(root, split_of_folder, kept, folder, unlabelled, passed_over)


def _relative(passed_over: PassedOver, root: Path) -> dict[str, tuple[str, ...]]:
    """Passed-over files by category, relative to `root` and sorted."""
    return {
        category: tuple(sorted(printable_path(os.path.relpath(file, root)) for file in files))
        for category, files in passed_over.items()
    }


def _check_folder(root: Path) -> None:
    if not root.exists():
        raise DataError("there is no such folder", where=root, next="correct the path")
    if not root.is_dir():
        raise DataError("this is a file", where=root, expected="a folder of images")


def _samples(
    root: Path, splits: Mapping[str, Split], need_class: bool, passed_over: PassedOver, unlabelled: Path | None
) -> Iterator[_Sample]:
    """The images below `root`, or below its split folders, but not below the folder `unlabelled`.

    The other files are added to `passed_over`.
    """
    tops = [root / name for name in splits] or [root]
    if splits and (beside := [path for path in root.iterdir() if path.name not in splits and path != unlabelled]):
        passed_over[BESIDE_SPLITS] = beside
    for path in (path for top in tops for path in _images(top, root, passed_over)):
        if unlabelled is not None and path.is_relative_to(unlabelled):
            continue
        parts = path.relative_to(root).parts
        class_folders = parts[1 if splits else 0 : -1]
        if class_folders or not need_class:
            yield _Sample("/".join(parts), class_folders)
        else:
            passed_over.setdefault(IN_NO_CLASS_FOLDER, []).append(path)


def _without_left_out(
    samples: Sequence[_Sample], config: ImageFolder, root: Path, passed_over: PassedOver
) -> list[_Sample]:
    """The samples that the config keeps. The others are added to `passed_over`."""
    left_out = left_out_paths([sample.id for sample in samples], config, root)
    for category, paths in left_out.items():
        passed_over.setdefault(category, []).extend(root / path for path in paths)
    gone = {path for paths in left_out.values() for path in paths}
    return [sample for sample in samples if sample.id not in gone]


def left_out_paths(paths: Sequence[str], config: ImageFolder, root: Path) -> dict[str, list[str]]:
    """The paths, relative to `root`, that patterns leave out, and those of masks and thumbnails, by category."""
    included = [path for path in paths if not config.include or matches_any(path, config.include)]
    kept = [path for path in included if not matches_any(path, config.exclude)]
    left_out = companions(kept, lambda path: read_image(root / path), with_masks=config.masks != "keep")
    by_patterns = sorted(set(paths).difference(kept))
    return {**left_out, **({BY_PATTERNS: by_patterns} if by_patterns else {})}


def _idle_pattern_notes(listing: _Listing, config: ImageFolder) -> Iterator[str]:
    """A line for each pattern that matches no file, not even one that is passed over for another reason."""
    if not (config.include or config.exclude):
        return
    starts = [folder for folder in (listing.root, listing.unlabelled_folder) if folder is not None]
    files = [file for category in listing.passed_over.values() for file in category]
    paths = [file.relative_to(start).as_posix() for file in files for start in starts if file.is_relative_to(start)]
    kept = [sample.id for sample in listing.samples]
    for option, patterns, matched in (("include", config.include, [*paths, *kept]), ("exclude", config.exclude, paths)):
        for pattern in dict.fromkeys(patterns):
            if not any(matches_any(path, [pattern]) for path in matched):
                yield f"{option}: '{pattern}' matches no image; a pattern with / starts from the folder of images"


def _splits(
    ids: tuple[str, ...], split_of_folder: Mapping[str, Split], config: ImageFolder, labels: Labels | None
) -> tuple[Split, ...]:
    if not split_of_folder:
        return split_by_hash(ids, config.splits, labels)
    return tuple(split_of_folder[sample_id.partition("/")[0]] for sample_id in ids)


def _unlabelled(folder: Path, root: Path, config: ImageFolder, passed_over: PassedOver) -> dict[str, str]:
    """The images below the folder of unlabelled images: the path of each, relative to `root` or absolute, by its id."""
    found: PassedOver = {}
    names = [path.relative_to(folder).as_posix() for path in _images(folder, folder, found)]
    left_out = left_out_paths(names, config.model_copy(update={"include": ()}), folder)
    gone = {name for category in left_out.values() for name in category}
    for category, files in found.items():
        passed_over.setdefault(category, []).extend(files)
    for category, names_left_out in left_out.items():
        passed_over.setdefault(category, []).extend(folder / name for name in names_left_out)
    inside = folder.is_relative_to(root)
    start = folder.relative_to(root) if inside else folder
    shown = start if inside else Path("..", folder.name)  # `..` keeps the ids apart from those in `root`
    return {(shown / name).as_posix(): (start / name).as_posix() for name in names if name not in gone}


def _no_images(root: Path, splits: Mapping[str, Split], need_class: bool, notes: list[str]) -> DataError:
    layout = f"{'train/' if splits else ''}{'CLASS/' if need_class else ''}NAME"
    return DataError(
        f"there are no images {'in class folders ' if need_class else ''}here",
        where=root,
        got="; ".join(notes) or "no file with an image's suffix",
        expected=f"{layout}, with {' '.join(sorted(image_suffixes()))}",
        next=GIVE_CLASSES if any(IN_NO_CLASS_FOLDER in note for note in notes) else None,
    )


def _images(top: Path, root: Path, passed_over: PassedOver) -> Iterator[Path]:
    content = images_below(top)
    for error in content.unreadable:
        _refuse(error)
    for category, files in content.passed_over.items():
        passed_over.setdefault(category, []).extend(files)
    for path in content.images:
        if path.is_symlink() and leads_out(path, root):
            passed_over.setdefault(LEADING_OUT, []).append(path)
        elif not is_utf8_name(str(path)):
            passed_over.setdefault(NO_TEXT, []).append(path)
        else:
            yield path


def _refuse(error: OSError) -> NoReturn:
    raise DataError(f"the folder cannot be listed: {error.strerror}", where=printable_path(error.filename)) from None


def folders_in(root: Path) -> list[Path]:
    """The subfolders of `root` that are not hidden, sorted by name. Raises DataError if they cannot be listed."""
    try:
        return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        _refuse(error)


def _merged_class_notes(folders: set[tuple[str, ...]]) -> list[str]:
    """A note for each class that has folders in several places."""
    counts = Counter(names[-1] for names in folders)
    return [
        f"class '{name}' is in {count} folders, taken as one" for name, count in sorted(counts.items()) if count > 1
    ]
