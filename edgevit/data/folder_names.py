"""What the names of folders give away: labels where none are asked for, and none where they are."""

from __future__ import annotations

from collections.abc import Mapping

from edgevit.artifacts import composed
from edgevit.configs import DatasetConfig, ImageFolder
from edgevit.data.dataset import Source
from edgevit.data.splits import split_named
from edgevit.errors import listed

GIVE_CLASSES = "make a folder for each class, or set classes: none if the pictures have no labels"
UNLABELLED_NAMES = frozenset({"unlabelled", "unlabeled", "pool", "unsorted"})


def label_notes(name: str, configs: Mapping[str, DatasetConfig], sources: Mapping[str, Source]) -> list[str]:
    """What a user should know about the folders of data set `name`, among all that a recipe reads.

    An unlabelled one whose folders bear the names of two or more classes of another; a labelled one with a class that
    is named as if its pictures had no label.
    """
    source = sources[name]
    if not isinstance(configs[name], ImageFolder):
        return []
    if source.labels is not None:
        return [
            f"the folder '{one}' is taken as a class; pictures without labels go into a data set with classes: none"
            for one in source.classes
            if one.lower() in UNLABELLED_NAMES
        ]
    folders = {composed(folder) for sample_id in source.ids for folder in sample_id.split("/")[:-1]}
    for other, labelled in sources.items():
        shared = sorted(folders.intersection(labelled.classes))
        if len(shared) > 1:
            return [f"its folders bear names of classes of {other} ({listed(shared)}); they are not used as labels"]
    return []


def inner_folders(source: Source) -> list[str]:
    """The names of the folders that hold pictures in the folders that name the classes."""
    folders = set()
    for sample_id in source.ids:
        outer, *inner = sample_id.split("/")[:-1]
        below = inner[1:] if split_named(outer) and inner else inner
        folders.update(below[-1:])
    return sorted(folders)
