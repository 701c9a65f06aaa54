"""Notes about folder names that suggest a mistake in a data set's labels."""

from __future__ import annotations

from collections.abc import Mapping

from edgevit.artifacts import composed
from edgevit.configs import DatasetConfig, ImageFolder
from edgevit.data.dataset import Source
from edgevit.data.splits import split_named
from edgevit.errors import listed

GIVE_CLASSES = "make a folder for each class, or set classes: none if the images have no labels"
POOL_NAMES = frozenset({"unlabelled", "unlabeled", "pool"})  # of folders of images without labels
UNLABELLED_NAMES = POOL_NAMES | {"unsorted"}


def label_notes(name: str, configs: Mapping[str, DatasetConfig], sources: Mapping[str, Source]) -> list[str]:
    """Notes about the folders of data set `name`, given all data sets that a recipe reads.

    There is a note for a labelled data set with a class named like a folder of unlabelled images ("pool"), and for an
    unlabelled data set whose folders have the names of two or more classes of a labelled data set.
    """
    source = sources[name]
    if not isinstance(configs[name], ImageFolder):
        return []
    if source.labels is not None:
        return [
            f"the folder '{folder}' is taken as a class; if its images have no labels, call it 'unlabelled' or set "
            "unlabelled: FOLDER"
            for folder in source.classes
            if folder.lower() in UNLABELLED_NAMES
        ]
    folders = {composed(folder) for sample_id in source.ids for folder in sample_id.split("/")[:-1]}
    for labelled_name, labelled in sources.items():
        shared = sorted(folders.intersection(labelled.classes))
        if len(shared) > 1:
            return [
                f"its folders have the names of classes of {labelled_name} ({listed(shared)}); "
                "they are not used as labels"
            ]
    return []


def inner_folders(source: Source) -> list[str]:
    """The names of the folders that hold the images, below the class folders."""
    folders = set()
    for sample_id in source.ids:
        outer, *inner = sample_id.split("/")[:-1]
        below = inner[1:] if split_named(outer) and inner else inner
        folders.update(below[-1:])
    return sorted(folders)
