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
from edgevit.data.dataset import SPLITS, Source, Split
from edgevit.data.folder_names import GIVE_CLASSES
from edgevit.data.hashes import ImageState, ImageStates, StoredFile
from edgevit.data.images import IMAGE_SUFFIXES, Image, is_image_name, is_utf8_name, read_image
from edgevit.data.splits import split_by_hash, split_named
from edgevit.errors import DataError

IN_NO_CLASS_FOLDER = "pictures that lie in no class folder"


@dataclass(frozen=True, order=True)
class _Sample:
    id: str
    class_folders: tuple[str, ...]  # between the split (or PATH) and the picture


def read(config: ImageFolder, base: Path) -> Source:
    """List PATH/{train,val,test}/CLASS/… where there is a folder of training images, otherwise PATH/CLASS/…

    With `classes: none` there are no class folders and no labels: every picture counts, however deep it lies.
    Symbolic links that lead out of PATH are not followed, nor are links to folders.

    Raises:
        DataError: PATH is missing, is no folder, or has no pictures where they should be, or two folders of one split.
    """
    root = (base / Path(config.path).expanduser()).absolute()
    _check_folder(root)
    named = split_folders(root, config.classes != "none")
    passed_over: Counter[str] = Counter()
    samples = sorted(_samples(root, named, config.classes != "none", passed_over))
    notes = [f"{count} {what} are passed over" for what, count in sorted((+passed_over).items())]
    if not samples:
        raise _nothing_found(root, named, config.classes != "none", notes)
    ids = tuple(sample.id for sample in samples)
    splits = tuple(named[one.partition("/")[0]] for one in ids) if named else split_by_hash(ids, config.splits)
    images = FolderImages(root, ids)
    if config.classes == "none":
        return Source((), ids, None, splits, images, tuple(notes))
    level = 0 if config.classes == "top" else -1
    classes, labels = np.unique([sample.class_folders[level] for sample in samples], return_inverse=True)
    if config.classes == "leaf":
        notes += _merged({sample.class_folders for sample in samples})
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

    def __getitem__(self, index: int) -> Image:
        return read_image(self.root / self.paths[index])

    def states(self, indices: Sequence[int], known: ImageStates) -> list[ImageState]:
        return known.of(StoredFile(self.root / self.paths[index]) for index in indices)


def _check_folder(root: Path) -> None:
    if not root.exists():
        raise DataError("there is no such folder", where=root, next="correct the path")
    if not root.is_dir():
        raise DataError("this is a file", where=root, expected="a folder of pictures")


def _samples(root: Path, splits: Mapping[str, Split], need_class: bool, passed_over: Counter[str]) -> Iterator[_Sample]:
    """Every picture below `root`, or below its folders of splits; what is passed over is counted by reason."""
    tops = [root / name for name in splits] or [root]
    if splits:
        passed_over["folders beside those of the splits"] += len(_folders(root)) - len(splits)
    for path in (path for top in tops for path in _pictures(top, root, passed_over)):
        parts = path.relative_to(root).parts
        class_folders = parts[1 if splits else 0 : -1]
        if class_folders or not need_class:
            yield _Sample("/".join(parts), class_folders)
        else:
            passed_over[IN_NO_CLASS_FOLDER] += 1


def _nothing_found(root: Path, splits: Mapping[str, Split], need_class: bool, notes: list[str]) -> DataError:
    layout = f"{'train/' if splits else ''}{'CLASS/' if need_class else ''}NAME"
    return DataError(
        f"there are no pictures {'in class folders ' if need_class else ''}here",
        where=root,
        got="; ".join(notes) or "no file with a picture's extension",
        expected=f"{layout}, with {' '.join(sorted(IMAGE_SUFFIXES))}",
        next=GIVE_CLASSES if any(IN_NO_CLASS_FOLDER in note for note in notes) else None,
    )


def _pictures(top: Path, root: Path, passed_over: Counter[str]) -> Iterator[Path]:
    inside = root.resolve()
    for folder, subfolders, files in os.walk(top, onerror=_refuse):
        linked = [name for name in subfolders if (Path(folder) / name).is_symlink()]
        passed_over.update(["links to folders"] * len(linked))
        subfolders[:] = sorted(name for name in subfolders if not name.startswith(".") and name not in linked)
        for name in filter(is_image_name, files):
            path = Path(folder) / name
            if path.is_symlink() and not path.resolve().is_relative_to(inside):
                passed_over["links that lead out of the folder"] += 1
            elif not is_utf8_name(str(path)):
                passed_over["pictures whose names are not UTF-8"] += 1
            else:
                yield path


def _refuse(error: OSError) -> NoReturn:
    raise DataError(f"the folder cannot be listed: {error.strerror}", where=error.filename)


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
