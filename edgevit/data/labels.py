"""From labels as a source writes them, numbers or names, to class names and indices into them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgevit.data.class_names import composed
from edgevit.data.dataset import Indices, Labels
from edgevit.errors import DataError, did_you_mean

_MOST_CLASSES = 2**20


def classes_and_labels(
    found: Sequence[int | str], names: Sequence[str] | None, where: object
) -> tuple[tuple[str, ...], Labels]:
    """The class names, and an index into them for each of the labels `found`.

    Numbers are indices into `names`, or else into "0", "1", … up to the largest; strings are found in `names`, or else
    sorted. Where both occur, a number is a name.

    Raises:
        DataError: a label is negative, beyond the names or none of them.
    """
    if all(isinstance(label, int) for label in found):
        return _numbered(np.array(found, np.int64), names, where)
    distinct, labels = np.unique([composed(str(label)) for label in found], return_inverse=True)
    classes = tuple(distinct.tolist()) if names is None else tuple(map(composed, names))
    places = class_indices(distinct.tolist(), classes)
    for name in distinct[places < 0].tolist():
        raise DataError(f"no class is called '{name}'", where=where, next=did_you_mean(name, classes))
    return classes, places[labels]


def class_indices(names: Sequence[str], classes: Sequence[str]) -> Indices:
    """The index of each name in `classes`, (names,) int64; -1 where it is none of them. Names are compared composed."""
    place = {composed(name): index for index, name in enumerate(classes)}
    return np.array([place.get(composed(name), -1) for name in names], np.int64)


def missing_classes(names: Sequence[str], classes: Sequence[str]) -> list[str]:
    """The names that `classes` does not have, in their order."""
    return [name for name, place in zip(names, class_indices(names, classes), strict=True) if place < 0]


def _numbered(labels: Labels, names: Sequence[str] | None, where: object) -> tuple[tuple[str, ...], Labels]:
    count = _MOST_CLASSES if names is None else len(names)
    if len(labels) and not 0 <= labels.min() <= labels.max() < count:
        got, expected = f"{labels.min()} to {labels.max()}", f"0 to {count - 1}"
        raise DataError("the labels are no indices of classes", where=where, got=got, expected=expected)
    if names is not None:
        return tuple(map(composed, names)), labels
    return tuple(str(index) for index in range(int(labels.max(initial=-1)) + 1)), labels
