"""Which output of a model belongs to which class of a data set: by name, or by position where the order is known."""

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
    """Names of class folders as timm ("natural": 2 before 10, a before B) or torchvision ("text") sorts them.

    timm leaves the order of names open that differ in case or in leading zeros alone; here it is that of the text.
    """
    return tuple(sorted(names) if order == "text" else sorted(names, key=lambda name: (_natural_key(name), name)))


def possible_orders(names: Sequence[str]) -> dict[ClassOrder, tuple[str, ...]]:
    """The orders in which another program may have numbered these classes; {} where there is only the given one.

    Classes that are not sorted as text have an order of their own, which a file of the data set says.
    """
    orders = {order: in_order(names, order) for order in ORDERS}
    return {} if tuple(names) != orders["text"] or orders["natural"] == orders["text"] else orders


def names_of_outputs(count: int, names: Sequence[str]) -> tuple[str, ...] | None:
    """The names of all classes behind `count` outputs without names, for a data set of `names`; in no certain order.

    They are the data set's where it has as many; numbers up to `count` where its names are some of these; else None.
    """
    if len(names) == count:
        return tuple(names)
    return tuple(sorted(numbers(count))) if set(names) <= set(numbers(count)) else None


def output_indices(io: IOSpec, names: Sequence[str], where: str) -> list[int] | None:
    """The model's output for each class of a data set; None where the names do not meet.

    Raises DataError where the model does not name its classes, and timm and torchvision would order them differently.
    """
    classes = io.classes
    if not io.names_its_classes:
        every = names_of_outputs(len(classes), names)
        if every is None:
            return None
        orders = possible_orders(every)
        places = {order: [found.index(name) for name in names] for order, found in orders.items()}
        if orders and places["natural"] != places["text"]:
            raise unknown_order(orders, where)
        by_number = orders or set(every) == set(classes)
        classes = in_order(every, "natural") if by_number else every
    places = class_indices(names, classes).tolist()
    return None if -1 in places else places


def unknown_order(orders: dict[ClassOrder, tuple[str, ...]], where: str, next: str | None = None) -> DataError:
    """What is said where two orders of the classes are possible."""
    return DataError(
        "the order of the model's classes is not known, and the two usual orders differ",
        where=where,
        got="a model that does not name its classes",
        expected=" or ".join(f"{ORDERS[order]} {_from_first_difference(orders, order)}" for order in orders),
        next=next
        or "--class-order natural or text, or write the names into the file: edgevit describe --labels FILE; in a "
        "recipe: class_order, or classes, of the load stage",
    )


def _from_first_difference(orders: dict[ClassOrder, tuple[str, ...]], order: ClassOrder) -> str:
    """Some names of one order, from the one before the first that differs."""
    pairs = zip(*orders.values(), strict=True)
    start = max(0, next(index for index, (one, other) in enumerate(pairs) if one != other) - 1)
    shown = orders[order][start : start + _SHOWN]
    return f"{'… ' if start else ''}{', '.join(shown)}{', …' if start + _SHOWN < len(orders[order]) else ''}"


def _natural_key(name: str) -> list[tuple[bool, int, str]]:
    """timm.utils.natural_key, but for digits such as '²', at which that one stops."""
    parts = _DIGITS.split(name.lower())
    return [(odd % 2 == 1, int(part) if odd % 2 else 0, "" if odd % 2 else part) for odd, part in enumerate(parts)]
