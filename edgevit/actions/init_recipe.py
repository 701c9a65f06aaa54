"""What `edgevit init` writes: a commented recipe that fits a folder of images."""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path
from typing import Literal

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from edgevit.configs import ImageFolder
from edgevit.configs.fields import LONGEST_ID
from edgevit.data import Dataset, dataset_artifacts, open_dataset
from edgevit.data.sources.image_folder import split_folders
from edgevit.errors import DataError, TargetError
from edgevit.progress import Progress
from edgevit.terminal import printable_line

TARGETS = ("local-cpu", "local-gpu")
FEW_IMAGES_PER_CLASS = 20  # below this, on average, the recipe is a few-shot one
SHOTS = 5


def recipe_for_folder(
    folder: Path, target: str, recipe_file: Path, latency_ms: float | None, progress: Progress
) -> tuple[str, str]:
    """A recipe's text, and one line about what was found in the folder.

    Raises:
        DataError: the folder holds no usable images, or too few.
        TargetError: there is no such target.
    """
    if target not in TARGETS:
        raise TargetError(f"there is no target '{target}'", expected=" or ".join(TARGETS))
    if not folder.is_dir():
        raise DataError("there is no such folder", where=folder)
    config = ImageFolder(source="image_folder", path=str(folder.absolute()), classes=_class_level(folder))
    names = ["photos", "photos.train", "photos.test"]
    roles = dataset_artifacts({"photos": config}, Path.cwd(), names, progress=progress)
    for note in dict.fromkeys(note for role in roles.values() for note in role.manifest.provenance["notes"]):
        progress.say(f"note: {note}")
    train, classes = roles["photos.train"].metrics["images"], roles["photos"].metrics["classes"]
    few = train / classes < FEW_IMAGES_PER_CLASS
    shots = _shots(open_dataset(roles["photos.train"])) if few else 0
    text = _template().render(
        name=_recipe_name(folder),
        file=printable_line(shlex.quote(str(recipe_file))),
        path=_path_from(recipe_file.absolute().parent, folder.absolute()),
        classes=config.classes,
        has_test_folder="test" in split_folders(folder, of_classes=True).values(),
        shots=shots,
        target=target,
        latency_ms=latency_ms,
    )
    kind = "few images: a few-shot recipe" if few else "enough images to train on"
    counts = f"{classes} classes, {roles['photos'].metrics['images']} images, {train} of them to train on"
    return text, f"{folder}: {counts}; {kind}"


def _shots(train: Dataset) -> int:
    """Five labelled images a class, or as many as leave one of the smallest class for the pool."""
    assert train.labels is not None
    counts = np.bincount(train.labels, minlength=len(train.classes))
    if counts.min() < 2:
        short = [f"{name} has {count}" for name, count in zip(train.classes, counts, strict=True) if count < 2]
        raise DataError("classes have too few images to train on", got=", ".join(short), expected="2 of each or more")
    return int(min(SHOTS, counts.min() - 1))


def _class_level(folder: Path) -> Literal["top", "leaf"]:
    """`leaf` where class folders hold folders themselves."""
    tops = [folder / name for name in split_folders(folder, of_classes=True)] or [folder]
    class_folders = [folder for top in tops for folder in top.iterdir() if folder.is_dir()]
    nested = any(inner.is_dir() for folder in class_folders for inner in folder.iterdir())
    return "leaf" if nested else "top"


def _recipe_name(folder: Path) -> str:
    return re.sub(r"[^a-z0-9]+", "-", folder.resolve().name.lower()).strip("-")[:LONGEST_ID] or "photos"


def _path_from(start: Path, folder: Path) -> Path:
    """Relative where recipe and photos lie together, so that they can move together; absolute elsewhere."""
    return Path(os.path.relpath(folder, start)) if folder.is_relative_to(start.parent) else folder


def _quoted(text: object) -> str:
    """Text as YAML has it between quotes."""
    plain = str(text)
    if plain == printable_line(plain):
        return "'" + plain.replace("'", "''") + "'"
    return printable_line(json.dumps(plain, ensure_ascii=False))


def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("edgevit"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["quoted"] = _quoted
    return environment.get_template("recipe.yaml.j2")
