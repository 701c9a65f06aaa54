"""The same picture in two places, known by the hash of its content, which fingerprints are made of anyway."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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


def duplicate_notes(name: str, hashed: Mapping[str, Dataset], uses: Uses) -> list[str]:
    """What a user should know about pictures that data set `name` holds twice or shares with what models learn from.

    Data sets that are large may hold duplicates by nature (CIFAR-10 has some in train and test), so they are counted;
    in a support each image weighs much.

    Raises:
        DataError: `name` is a support with a picture under two classes; or it is tested, and holds a picture of one.
    """
    own = hashed[name]
    as_support = is_support(name, own, uses)
    notes = list(_under_two_classes(own, as_support))
    if as_support:
        notes += _twice_in_a_class(own)
    if name in uses.tested:
        for other in sorted(uses.learned - {name}):
            notes += _shared(own, hashed[other], is_support(other, hashed[other], uses))
    return notes


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


def _shared(tested: Dataset, learned: Dataset, refused: bool) -> Iterator[str]:
    place = {content: index for index, content in enumerate(learned.contents())}
    pairs = [
        (tested.sample_ids[index], learned.sample_ids[place[content]])
        for index, content in enumerate(tested.contents())
        if content in place
    ]
    if not pairs:
        return
    what = "learned from" if learned.labels is not None else "learned from without labels"
    if refused and not _by_design(tested.name, learned.name):
        raise DataError(
            f"pictures that accuracy is measured on are in the support '{learned.name}' too",
            where=tested.name,
            got=f"{len(pairs)}: {listed([f'{one} is {other}' for one, other in pairs])}",
            next="remove them from one of the two",
        )
    yield (
        f"{len(pairs):,} of the {len(tested):,} images that accuracy is measured on are in "
        f"{learned.name} too, which is {what}"
    )


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
