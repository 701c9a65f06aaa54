"""Pictures in folders: the folder names the class."""

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
from edgevit.data.dataset import SPLITS, Source, Split
from edgevit.data.folder_names import GIVE_CLASSES
from edgevit.data.hashes import ImageState, ImageStates, StoredFile, content_of
from edgevit.data.images import NO_TEXT, Image, is_utf8_name, read_image
from edgevit.data.links import leads_out
from edgevit.data.preprocess import passed_over_notes, picture_suffixes, pictures_below, shown
from edgevit.data.splits import split_by_hash, split_named
from edgevit.errors import DataError

IN_NO_CLASS_FOLDER = "pictures that lie in no class folder"
LEADING_OUT = "links that lead out of the folder"
BESIDE_SPLITS = "files and folders beside those of the splits"

PassedOver = dict[str, list[Path]]  # by what they are


@dataclass(frozen=True, order=True)
class _Sample:
    id: str
    class_folders: tuple[str, ...]  # between the split (or PATH) and the picture


def read(config: ImageFolder, base: Path) -> Source:
    """List PATH/{train,val,test}/CLASS/… where there is a folder of training images, otherwise PATH/CLASS/…

    With `classes: none` there are no class folders and no labels: every picture counts, however deep it lies.
    Symbolic links that lead out of PATH are not followed, nor are links to folders. Every file that is passed over is
    counted in a note, the first of a kind by their names.

    Raises:
        DataError: PATH is missing, is no folder, or has no pictures where they should be, or two folders of one split;
            or a folder in it cannot be listed.
    """
    root = absolute_path(config.path, base)
    _check_folder(root)
    named = split_folders(root, config.classes != "none")
    passed_over: PassedOver = {}
    samples = sorted(_samples(root, named, config.classes != "none", passed_over))
    notes = list(passed_over_notes(passed_over, root))
    if not samples:
        raise _nothing_found(root, named, config.classes != "none", notes)
    ids = tuple(sample.id for sample in samples)
    splits = tuple(named[one.partition("/")[0]] for one in ids) if named else split_by_hash(ids, config.splits)
    images = FolderImages(root, ids)
    if config.classes == "none":
        return Source((), ids, None, splits, images, tuple(notes))
    level = 0 if config.classes == "top" else -1
    classes, labels = np.unique([composed(sample.class_folders[level]) for sample in samples], return_inverse=True)
    if config.classes == "leaf":
        notes += _merged({tuple(map(composed, sample.class_folders)) for sample in samples})
    return Source(tuple(classes.tolist()), ids, labels.astype(np.int64), splits, images, tuple(notes))


def split_folders(root: Path, of_classes: bool) -> dict[str, Split]:
    """Which folders of `root` are splits, by their names; {} where none is for training.

    Args:
        of_classes: whether splits hold folders; `train` without any, among folders of other names, is a class then.

    Raises:
        DataError: two folders serve as one split.
    """
    folders = _folders(root)
    named = {one.name: split for one in folders if (split := split_named(one.name))}
    training = [name for name, split in named.items() if split == "train"]
    if of_classes and len(named) < len(folders):
        training = [name for name in training if _folders(root / name)]
    if not training:
        return {}
    for split in SPLITS:
        if len(names := [name for name in named if named[name] == split]) > 1:
            raise DataError(
                f"two folders serve as {split}", where=root, got=", ".join(names), next="rename one of them"
            )
    return named


def folder_of_tests(root: Path) -> Path:
    """The folder of test images, by its name and the class folders in it; `root` itself where it has none."""
    return next((one for one in _folders(root) if split_named(one.name) == "test" and _folders(one)), root)


@dataclass(frozen=True)
class FolderImages:
    """Files below `root`, read when asked for."""

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


def _check_folder(root: Path) -> None:
    if not root.exists():
        raise DataError("there is no such folder", where=root, next="correct the path")
    if not root.is_dir():
        raise DataError("this is a file", where=root, expected="a folder of pictures")


def _samples(root: Path, splits: Mapping[str, Split], need_class: bool, passed_over: PassedOver) -> Iterator[_Sample]:
    """Every picture below `root`, or below its folders of splits; `passed_over` takes the other files."""
    tops = [root / name for name in splits] or [root]
    if splits and (beside := [one for one in root.iterdir() if one.name not in splits]):
        passed_over[BESIDE_SPLITS] = beside
    for path in (path for top in tops for path in _pictures(top, root, passed_over)):
        parts = path.relative_to(root).parts
        class_folders = parts[1 if splits else 0 : -1]
        if class_folders or not need_class:
            yield _Sample("/".join(parts), class_folders)
        else:
            passed_over.setdefault(IN_NO_CLASS_FOLDER, []).append(path)


def _nothing_found(root: Path, splits: Mapping[str, Split], need_class: bool, notes: list[str]) -> DataError:
    layout = f"{'train/' if splits else ''}{'CLASS/' if need_class else ''}NAME"
    return DataError(
        f"there are no pictures {'in class folders ' if need_class else ''}here",
        where=root,
        got="; ".join(notes) or "no file with a picture's extension",
        expected=f"{layout}, with {' '.join(sorted(picture_suffixes()))}",
        next=GIVE_CLASSES if any(IN_NO_CLASS_FOLDER in note for note in notes) else None,
    )


def _pictures(top: Path, root: Path, passed_over: PassedOver) -> Iterator[Path]:
    found = pictures_below(top)
    for error in found.unreadable:
        _refuse(error)
    for kind, files in found.passed_over.items():
        passed_over.setdefault(kind, []).extend(files)
    for path in found.pictures:
        if path.is_symlink() and leads_out(path, root):
            passed_over.setdefault(LEADING_OUT, []).append(path)
        elif not is_utf8_name(str(path)):
            passed_over.setdefault(NO_TEXT, []).append(path)
        else:
            yield path


def _refuse(error: OSError) -> NoReturn:
    raise DataError(f"the folder cannot be listed: {error.strerror}", where=shown(error.filename)) from None


def _folders(root: Path) -> list[Path]:
    """In the order of their names, but for hidden ones."""
    try:
        return sorted(one for one in root.iterdir() if one.is_dir() and not one.name.startswith("."))
    except OSError as error:
        _refuse(error)


def _merged(folders: set[tuple[str, ...]]) -> list[str]:
    """A note for each class that has folders in several places."""
    places = Counter(names[-1] for names in folders)
    return [
        f"class '{name}' is in {count} folders, taken as one" for name, count in sorted(places.items()) if count > 1
    ]
