"""The same picture in two places, known by the hash of its content, which fingerprints are made of anyway."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from edgevit.data.dataset import Dataset
from edgevit.errors import DataError, listed

LARGEST_SUPPORT = 2000  # images; a larger set is no support whose every image counts
SHOWN = 3


@dataclass(frozen=True)
class Uses:
    """What stages do with data sets and roles, by name.

    Attributes:
        tested: accuracy is measured on them.
        learned: models are made from them, by their labels or without.
        supports: models are adapted to their labelled images.
    """

    tested: frozenset[str] = frozenset()
    learned: frozenset[str] = frozenset()
    supports: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Overlap:
    """Pictures of a tested data set that models learn from too.

    Attributes:
        data: the data set that is learned from.
        labelled: it has labels.
        images, of: how many of how many tested pictures are in it.
    """

    data: str
    labelled: bool
    images: int
    of: int

    def note(self) -> str:
        what = "learned from" if self.labelled else "learned from without labels"
        return (
            f"{self.images:,} of the {self.of:,} images that accuracy is measured on are in {self.data} too, "
            f"which is {what}"
        )


def duplicate_notes(name: str, dataset: Dataset, uses: Uses) -> list[str]:
    """What a user should know about pictures that data set `name` holds twice.

    Raises DataError if it is a support with a picture under two classes.
    """
    as_support = is_support(name, dataset, uses)
    twice = _twice_in_a_class(dataset) if as_support else ()
    return [*_under_two_classes(dataset, as_support), *twice]


def overlaps(name: str, hashed: Mapping[str, Dataset], uses: Uses) -> list[Overlap]:
    """The tested pictures of `name` that are in a data set that models learn from, by the hash of their content.

    Copies in other files are counted: large data sets hold some by nature (CIFAR-10 has some in train and test), and
    pictures without labels may be meant to be those of the test.

    Raises:
        DataError: a tested picture is in a support, where each image weighs much; or the very file is read again, with
            labels, through another data set.
    """
    if name not in uses.tested:
        return []
    tested = hashed[name]
    found = []
    for other in sorted(uses.learned):
        learned = hashed[other]
        pairs = _shared(tested, learned)
        if not _by_design(name, other):
            _check_apart(tested, learned, pairs, is_support(other, learned, uses))
        if pairs:
            found.append(Overlap(other, learned.labels is not None, len(pairs), len(tested)))
    return found


def is_support(name: str, dataset: Dataset, uses: Uses) -> bool:
    """Whether models are adapted to these few labelled images."""
    named = name in uses.supports or name.endswith(".support")
    return named and dataset.labels is not None and len(dataset) <= LARGEST_SUPPORT


def _under_two_classes(dataset: Dataset, refused: bool) -> Iterator[str]:
    if dataset.labels is None:
        return
    labels = dataset.labels.tolist()
    pairs = [(one, other) for one, other in _repeated(dataset) if labels[one] != labels[other]]
    if not pairs:
        return
    named = [
        f"{dataset.sample_ids[one]} ({dataset.classes[labels[one]]}) and "
        f"{dataset.sample_ids[other]} ({dataset.classes[labels[other]]})"
        for one, other in pairs
    ]
    if refused:
        raise DataError(
            "the support has the same picture under two classes",
            where=dataset.name,
            got=f"{len(pairs)}: {listed(named, SHOWN)}",
            next="keep each under the class that it shows",
        )
    yield f"{_pictures(len(pairs))} under two classes: {listed(named, SHOWN)}"


def _twice_in_a_class(dataset: Dataset) -> Iterator[str]:
    assert dataset.labels is not None
    labels = dataset.labels.tolist()
    named = [
        f"{dataset.sample_ids[one]} and {dataset.sample_ids[other]}"
        for one, other in _repeated(dataset)
        if labels[one] == labels[other]
    ]
    if named:
        yield f"{_pictures(len(named))} there twice, and count{'s' * (len(named) == 1)} twice: {listed(named, SHOWN)}"


def _shared(tested: Dataset, learned: Dataset) -> list[tuple[int, int]]:
    """For each tested picture that `learned` holds too, both positions: of the very file, or else of its first copy."""
    contents = tested.contents()
    wanted = set(contents)
    first: dict[bytes, int] = {}
    by_place: dict[tuple[bytes, str], int] = {}
    for index, content in enumerate(learned.contents()):
        if content in wanted:
            first.setdefault(content, index)
            by_place.setdefault((content, _place(learned, index)), index)
    return [
        (index, by_place.get((content, _place(tested, index)), first[content]))
        for index, content in enumerate(contents)
        if content in first
    ]


def _check_apart(tested: Dataset, learned: Dataset, pairs: Sequence[tuple[int, int]], as_support: bool) -> None:
    again = [pair for pair in pairs if _place(tested, pair[0]) == _place(learned, pair[1])]
    refused = pairs if as_support else again if learned.labels is not None else []
    if not refused:
        return
    raise DataError(
        f"pictures that accuracy is measured on are in the {'support' if as_support else 'data set'} "
        f"'{learned.name}' too, which is learned from",
        where=tested.name,
        got=f"{len(refused)}: "
        + listed([f"{tested.sample_ids[one]} is {learned.sample_ids[other]}" for one, other in refused]),
        next=f"remove them from one of the two, or let {learned.name} read folders or splits of its own",
    )


def _place(dataset: Dataset, index: int) -> str:
    return dataset.images.place(int(dataset.indices[index]))


def _by_design(one: str, other: str) -> bool:
    """Whether these are roles of one data set that share samples: the recipe says so, and the user knows."""
    (data, _, role), (other_data, _, other_role) = one.partition("."), other.partition(".")
    apart = {role, other_role} & {"val", "test"}
    return data == other_data and ("" in (role, other_role) or role == other_role or not apart)


def _repeated(dataset: Dataset) -> Iterator[tuple[int, int]]:
    """Pairs of samples with the same content: the first that has it, and each further one."""
    first: dict[bytes, int] = {}
    for index, content in enumerate(dataset.contents()):
        if content in first:
            yield first[content], index
        else:
            first[content] = index


def _pictures(count: int) -> str:
    return "1 picture is" if count == 1 else f"{count:,} pictures are"
