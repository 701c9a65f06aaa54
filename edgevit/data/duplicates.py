"""Duplicate images within a data set, and in both tested and training data, found by the hash of their content."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from edgevit.data.dataset import Dataset
from edgevit.errors import DataError, listed

LARGEST_SUPPORT = 2000  # images; in a larger set a single image has little weight
SHOWN = 3


@dataclass(frozen=True)
class Uses:
    """How the stages of a recipe use data sets and roles, by name.

    Attributes:
        tested: names of data sets that accuracy is measured on.
        learned: names of data sets that models learn from, with labels or without.
        supports: names of data sets whose labelled images models are adapted to.
    """

    tested: frozenset[str] = frozenset()
    learned: frozenset[str] = frozenset()
    supports: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Overlap:
    """Images of a tested data set that are also in a data set that models learn from.

    Attributes:
        data: name of the data set that models learn from.
        labelled: whether that data set has labels.
        images: number of tested images that are in it.
        of: number of tested images.
    """

    data: str
    labelled: bool
    images: int
    of: int

    def note(self) -> str:
        without_labels = "" if self.labelled else " without labels"
        return (
            f"{self.images:,} of the {self.of:,} images that accuracy is measured on are also in {self.data}, "
            f"which models learn from{without_labels}"
        )


def duplicate_notes(name: str, dataset: Dataset, uses: Uses) -> list[str]:
    """Notes about images that data set `name` holds twice.

    Raises DataError if the data set is a support with an image under two classes.
    """
    as_support = is_support(name, dataset, uses)
    within_classes = _duplicates_within_classes(dataset) if as_support else ()
    return [*_duplicates_across_classes(dataset, as_support), *within_classes]


def overlaps(name: str, hashed: Mapping[str, Dataset], uses: Uses) -> list[Overlap]:
    """The overlaps between the tested data set `name` and each data set that models learn from.

    Images are compared by the hash of their content. Copies in different files are counted and not refused: large
    data sets contain some (CIFAR-10 has some in both train and test), and unlabelled images may be the tested ones on
    purpose.

    Raises:
        DataError: a tested image is in a support; or a labelled data set that models learn from reads the same file.
    """
    if name not in uses.tested:
        return []
    tested = hashed[name]
    overlapping = []
    for learned_name in sorted(uses.learned):
        learned = hashed[learned_name]
        pairs = _shared_images(tested, learned)
        if not _by_design(name, learned_name):
            _check_apart(tested, learned, pairs, is_support(learned_name, learned, uses))
        if pairs:
            overlapping.append(Overlap(learned_name, learned.labels is not None, len(pairs), len(tested)))
    return overlapping


def is_support(name: str, dataset: Dataset, uses: Uses) -> bool:
    """Whether the data set is a small labelled set that models are adapted to."""
    used_as_support = name in uses.supports or name.endswith(".support")
    return used_as_support and dataset.labels is not None and len(dataset) <= LARGEST_SUPPORT


def _duplicates_across_classes(dataset: Dataset, refused: bool) -> Iterator[str]:
    if dataset.labels is None:
        return
    labels = dataset.labels.tolist()
    pairs = [(first, copy) for first, copy in _duplicates(dataset) if labels[first] != labels[copy]]
    if not pairs:
        return
    with_class = [f"{name} ({dataset.classes[label]})" for name, label in zip(dataset.sample_ids, labels, strict=True)]
    named = [f"{with_class[first]} and {with_class[copy]}" for first, copy in pairs]
    if refused:
        raise DataError(
            "the support has the same image under two classes",
            where=dataset.name,
            got=f"{len(pairs)}: {listed(named, SHOWN)}",
            next="keep each image only under the class that it shows",
        )
    yield f"{_images(len(pairs))} under two classes: {listed(named, SHOWN)}"


def _duplicates_within_classes(dataset: Dataset) -> Iterator[str]:
    assert dataset.labels is not None
    labels = dataset.labels.tolist()
    named = [
        f"{dataset.sample_ids[first]} and {dataset.sample_ids[copy]}"
        for first, copy in _duplicates(dataset)
        if labels[first] == labels[copy]
    ]
    if named:
        yield f"{_images(len(named))} there twice, and count{'s' * (len(named) == 1)} twice: {listed(named, SHOWN)}"


def _shared_images(tested: Dataset, learned: Dataset) -> list[tuple[int, int]]:
    """The images that are in both data sets, each as its position in `tested` and in `learned`.

    The position in `learned` is that of the same file if it is there, otherwise that of the first copy.
    """
    contents = tested.contents()
    tested_contents = set(contents)
    first_copy: dict[bytes, int] = {}
    by_place: dict[tuple[bytes, str], int] = {}
    for index, content in enumerate(learned.contents()):
        if content in tested_contents:
            first_copy.setdefault(content, index)
            by_place.setdefault((content, _place(learned, index)), index)
    return [
        (index, by_place.get((content, _place(tested, index)), first_copy[content]))
        for index, content in enumerate(contents)
        if content in first_copy
    ]


def _check_apart(tested: Dataset, learned: Dataset, pairs: Sequence[tuple[int, int]], as_support: bool) -> None:
    same_file = [pair for pair in pairs if _place(tested, pair[0]) == _place(learned, pair[1])]
    refused = pairs if as_support else same_file if learned.labels is not None else []
    if not refused:
        return
    named = [f"{tested.sample_ids[position]} is {learned.sample_ids[copy]}" for position, copy in refused]
    raise DataError(
        f"images that accuracy is measured on are also in the {'support' if as_support else 'data set'} "
        f"'{learned.name}', which models learn from",
        where=tested.name,
        got=f"{len(refused)}: {listed(named)}",
        next=f"remove the images from one of the two, or let {learned.name} read different folders or splits",
    )


def _place(dataset: Dataset, index: int) -> str:
    return dataset.images.place(int(dataset.indices[index]))


def _by_design(tested_name: str, learned_name: str) -> bool:
    """Whether the two are roles of one data set that share samples. The recipe then asks for the overlap."""
    (tested_data, _, tested_role), (learned_data, _, learned_role) = (
        name.partition(".") for name in (tested_name, learned_name)
    )
    if tested_data != learned_data:
        return False
    roles = {tested_role, learned_role}
    return "" in roles or len(roles) == 1 or not roles & {"val", "test"}


def _duplicates(dataset: Dataset) -> Iterator[tuple[int, int]]:
    """Pairs of samples with the same content: the first sample with this content, and each further sample."""
    first: dict[bytes, int] = {}
    for index, content in enumerate(dataset.contents()):
        if content in first:
            yield first[content], index
        else:
            first[content] = index


def _images(count: int) -> str:
    return "1 image is" if count == 1 else f"{count:,} images are"
