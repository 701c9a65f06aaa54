"""Labels: from the numbers or names in a source to class indices, and from one list of classes to another by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from edgevit.data.class_names import composed
from edgevit.data.dataset import Dataset, Indices, Labels
from edgevit.errors import DataError, did_you_mean, listed

_MOST_CLASSES = 2**20


def classes_and_labels(
    raw_labels: Sequence[int | str], names: Sequence[str] | None, where: object
) -> tuple[tuple[str, ...], Labels]:
    """The class names, and the label of each sample as an index into them, (samples,) int64.

    If all raw labels are numbers, they are indices into `names`, or into "0", "1", … up to the largest number if there
    are no `names`. Otherwise each raw label is a class name, also a number: one of `names`, or, without `names`, one of
    the sorted distinct labels.

    Raises:
        DataError: a label is negative, beyond the last class, or none of `names`.
    """
    if all(isinstance(label, int) for label in raw_labels):
        return _numbered(np.array(raw_labels, np.int64), names, where)
    distinct, labels = np.unique([composed(str(label)) for label in raw_labels], return_inverse=True)
    distinct_names = distinct.tolist()
    classes = tuple(distinct_names) if names is None else tuple(map(composed, names))
    for name in missing_classes(distinct_names, classes):
        raise DataError(f"no class is called '{name}'", where=where, next=did_you_mean(name, classes))
    return classes, class_indices(distinct_names, classes)[labels]


def class_indices(names: Sequence[str], classes: Sequence[str]) -> Indices:
    """The index of each name in `classes`, (names,) int64; -1 for a name that is not there.

    Names are compared in Unicode's composed form.
    """
    index_of = {composed(name): index for index, name in enumerate(classes)}
    return np.array([index_of.get(composed(name), -1) for name in names], np.int64)


def short_classes(classes: Iterable[str], counts: Iterable[int], fewest: int) -> list[str]:
    """`NAME has COUNT` for each class with fewer images than `fewest`."""
    return [f"{name} has {count}" for name, count in zip(classes, counts, strict=True) if count < fewest]


def missing_classes(names: Sequence[str], classes: Sequence[str]) -> list[str]:
    """The names that are not in `classes`, in the order of `names`."""
    return [name for name, index in zip(names, class_indices(names, classes), strict=True) if index < 0]


def labels_among(dataset: Dataset, classes: Sequence[str]) -> Labels | None:
    """The data set's labels as indices into `classes`, (samples,) int64, matched by name.

    None if the data set has no labels, or if `classes` lacks one of its classes.
    """
    indices = class_indices(dataset.classes, classes)
    return None if dataset.labels is None or (indices < 0).any() else indices[dataset.labels]


def labelled(dataset: Dataset, what: str) -> Dataset:
    """The data set, if it has labelled images. Raises DataError otherwise.

    Args:
        what: in plural, what needs them, for the error.
    """
    if dataset.labels is None or not len(dataset):
        got = "no labels" if len(dataset) else "no images"
        raise DataError(f"{what} need labelled images", where=dataset.name, got=got)
    return dataset


def check_has_classes_of(support: Dataset, data: Dataset) -> None:
    """Raise DataError if labelled images to learn from lack a class of the labelled images that are predicted."""
    assert data.labels is not None
    names = [data.classes[label] for label in np.unique(data.labels)]
    if missing_classes(names, support.classes):
        advice = "name in the data set's include_classes the classes that the support has"
        raise lacks_classes("the support", names, support.classes, f"{support.name}, {data.name}", advice)


def lacks_classes(owner: str, names: Sequence[str], classes: Sequence[str], where: object, next: str) -> DataError:
    """The error for an `owner` ("the model") whose `classes` lack some of the `names` of a data set's classes."""
    missing = missing_classes(names, classes)
    return DataError(
        f"{owner} lacks {len(missing)} of the {len(names)} classes",
        where=where,
        got=f"missing: {listed(missing)}",
        expected=f"among the {len(classes)} classes of {owner}: {listed(classes)}",
        next=next,
    )


def _numbered(labels: Labels, names: Sequence[str] | None, where: object) -> tuple[tuple[str, ...], Labels]:
    count = _MOST_CLASSES if names is None else len(names)
    if len(labels) and not 0 <= labels.min() <= labels.max() < count:
        got, expected = f"{labels.min()} to {labels.max()}", f"0 to {count - 1}"
        raise DataError("the labels are not indices of classes", where=where, got=got, expected=expected)
    if names is not None:
        return tuple(map(composed, names)), labels
    return tuple(str(index) for index in range(int(labels.max(initial=-1)) + 1)), labels
