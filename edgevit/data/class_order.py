"""The order of a model's outputs: each class of a data set is matched to an output, by name or by a known order."""

from __future__ import annotations

import re
from collections.abc import Sequence

from edgevit.artifacts import IOSpec, numbers
from edgevit.configs.fields import ClassOrder
from edgevit.data.labels import class_indices
from edgevit.errors import DataError

_SHOWN = 5
_DIGITS = re.compile(r"(\d+)")
ORDERS: dict[ClassOrder, str] = {"natural": "natural (timm)", "text": "text (torchvision)"}


def in_order(names: Sequence[str], order: ClassOrder) -> tuple[str, ...]:
    """Class names sorted as timm ("natural": 2 before 10, a before B) or torchvision ("text") sorts class folders.

    timm does not define the order of names that differ only in case or leading zeros. They are sorted as text here.
    """
    return tuple(sorted(names) if order == "text" else sorted(names, key=lambda name: (_natural_key(name), name)))


def possible_orders(names: Sequence[str]) -> dict[ClassOrder, tuple[str, ...]]:
    """The orders in which another program may have numbered these classes; {} if only the present order is possible.

    Classes that are not sorted as text have an explicit order, from a file of the data set.
    """
    orders = {order: in_order(names, order) for order in ORDERS}
    return {} if tuple(names) != orders["text"] or orders["natural"] == orders["text"] else orders


def names_of_outputs(count: int, names: Sequence[str]) -> tuple[str, ...] | None:
    """The names of all classes of a model with `count` unnamed outputs, in no certain order.

    These are the data set's `names` if there are `count` of them, or the numbers below `count` if the names are among
    these numbers; otherwise None.
    """
    if len(names) == count:
        return tuple(names)
    return tuple(sorted(numbers(count))) if set(names) <= set(numbers(count)) else None


def output_indices(io: IOSpec, names: Sequence[str], where: str) -> list[int] | None:
    """The index of the model's output for each class name; None if the model lacks one of the names.

    Raises DataError if the model does not name its classes, and timm and torchvision would order them differently.
    """
    classes = io.classes
    if not io.names_its_classes:
        all_names = names_of_outputs(len(classes), names)
        if all_names is None:
            return None
        orders = possible_orders(all_names)
        indices_by_order = {order: [ordered.index(name) for name in names] for order, ordered in orders.items()}
        if orders and indices_by_order["natural"] != indices_by_order["text"]:
            raise unknown_order(orders, where)
        by_number = orders or set(all_names) == set(classes)
        classes = in_order(all_names, "natural") if by_number else all_names
    indices = class_indices(names, classes).tolist()
    return None if -1 in indices else indices


def unknown_order(orders: dict[ClassOrder, tuple[str, ...]], where: str, next: str | None = None) -> DataError:
    """The error for a model whose classes may be in either of two orders."""
    return DataError(
        "the order of the model's classes is not known, and the two usual orders differ",
        where=where,
        got="a model that does not name its classes",
        expected=" or ".join(f"{ORDERS[order]} {_from_first_difference(orders, order)}" for order in orders),
        next=next
        or "give --class-order natural or text, or write the names into the file: edgevit describe --labels FILE; in a "
        "recipe: class_order, or classes, of the load stage",
    )


def _from_first_difference(orders: dict[ClassOrder, tuple[str, ...]], order: ClassOrder) -> str:
    """Some names of an order, starting just before the first position at which the two orders differ."""
    pairs = zip(*orders.values(), strict=True)
    start = max(0, next(index for index, (natural, text) in enumerate(pairs) if natural != text) - 1)
    shown = orders[order][start : start + _SHOWN]
    return f"{'… ' if start else ''}{', '.join(shown)}{', …' if start + _SHOWN < len(orders[order]) else ''}"


def _natural_key(name: str) -> list[tuple[bool, int, str]]:
    """As timm.utils.natural_key, but this accepts digits such as '²', which raise an error there."""
    parts = _DIGITS.split(name.lower())
    is_number = [index % 2 == 1 for index in range(len(parts))]  # `split` puts the numbers at odd positions
    return [
        (True, int(part), "") if number else (False, 0, part) for number, part in zip(is_number, parts, strict=True)
    ]
