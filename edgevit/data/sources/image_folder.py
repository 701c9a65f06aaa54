"""Pictures in folders: the folder names the class."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgevit.configs import ImageFolder
from edgevit.data.dataset import SPLITS, Source, Split
from edgevit.data.hashes import ImageState, ImageStates
from edgevit.data.images import IMAGE_SUFFIXES, Image, is_image_name, read_image
from edgevit.data.splits import split_by_hash
from edgevit.errors import DataError


def read(config: ImageFolder, base: Path) -> Source:
    """List PATH/{train,val,test}/CLASS/… where PATH/train exists, otherwise PATH/CLASS/…

    Symbolic links that lead out of PATH are not followed, nor are links to folders.

    Raises:
        DataError: PATH is missing, is no folder, or has no pictures in class folders.
    """
    root = (base / Path(config.path).expanduser()).absolute()
    _check_folder(root)
    has_splits = (root / "train").is_dir()
    levels_above_class = 1 if has_splits else 0
    tops = [root / split for split in SPLITS if (root / split).is_dir()] if has_splits else [root]

    passed_over: Counter[str] = Counter()
    samples = []  # (id, class name, folder)
    for path in (path for top in tops for path in _pictures(top, root, passed_over)):
        parts = path.relative_to(root).parts
        folders = parts[levels_above_class:-1]
        if folders:
            class_name = folders[0] if config.classes == "top" else folders[-1]
            samples.append(("/".join(parts), class_name, folders))
        else:
            passed_over["pictures that lie in no class folder"] += 1

    notes = [f"{count} {what} are passed over" for what, count in sorted(passed_over.items())]
    if not samples:
        raise DataError(
            "there are no pictures in class folders here",
            where=root,
            got="; ".join(notes) or "no file with a picture's extension",
            expected=f"{'train/' if has_splits else ''}CLASS/NAME, with {' '.join(sorted(IMAGE_SUFFIXES))}",
        )
    samples.sort()
    if config.classes == "leaf":
        notes += _merged({(class_name, folders) for _, class_name, folders in samples})
    ids = tuple(sample_id for sample_id, _, _ in samples)
    classes, labels = np.unique([class_name for _, class_name, _ in samples], return_inverse=True)
    return Source(
        classes=tuple(classes.tolist()),
        ids=ids,
        labels=labels.astype(np.int64),
        splits=_first_folders(ids) if has_splits else split_by_hash(ids, config.splits),
        images=FolderImages(root, ids),
        notes=tuple(notes),
    )


@dataclass(frozen=True)
class FolderImages:
    """Files below `root`, read when asked for."""

    root: Path
    paths: tuple[str, ...]

    def __getitem__(self, index: int) -> Image:
        return read_image(self.root / self.paths[index])

    def states(self, indices: Sequence[int], known: ImageStates) -> list[ImageState]:
        return known.of(self.root / self.paths[index] for index in indices)


def _check_folder(root: Path) -> None:
    if not root.exists():
        raise DataError("there is no such folder", where=root, next="correct the path")
    if not root.is_dir():
        raise DataError("this is a file", where=root, expected="a folder of pictures")


def _pictures(top: Path, root: Path, passed_over: Counter[str]) -> Iterator[Path]:
    """Every picture below `top`; what is passed over is counted by reason."""
    inside = root.resolve()
    for folder, subfolders, files in os.walk(top, onerror=_refuse):
        linked = [name for name in subfolders if (Path(folder) / name).is_symlink()]
        passed_over.update(["links to folders"] * len(linked))
        subfolders[:] = sorted(name for name in subfolders if not name.startswith(".") and name not in linked)
        for name in filter(is_image_name, files):
            path = Path(folder) / name
            if path.is_symlink() and not path.resolve().is_relative_to(inside):
                passed_over["links that lead out of the folder"] += 1
            elif not _is_text(str(path)):
                passed_over["pictures whose names are not UTF-8"] += 1
            else:
                yield path


def _refuse(error: OSError) -> None:
    raise DataError(f"the folder cannot be listed: {error.strerror}", where=error.filename)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _first_folders(ids: Iterable[str]) -> tuple[Split, ...]:
    named: dict[str, Split] = {split: split for split in SPLITS}
    return tuple(named[sample_id.partition("/")[0]] for sample_id in ids)


def _merged(found: set[tuple[str, tuple[str, ...]]]) -> list[str]:
    """A note for each class that has folders in several places."""
    places = Counter(class_name for class_name, _ in found)
    return [
        f"class '{name}' is in {count} folders, taken as one" for name, count in sorted(places.items()) if count > 1
    ]
