"""YAML as plain values. Mappings and lists know the line of each entry; aliases and merges become copies.

Scalars follow YAML 1.2's core schema: `no` and 2024-01-01 are text. The expanded size of a file is bounded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
)

from edgevit.errors import RecipeError, shortened

LARGEST_FILE = 1_000_000  # bytes
LARGEST_EXPANDED = 4_000_000  # characters, after aliases and for_each
CHARACTERS_PER_VALUE = 10  # counted for each value beside its own characters: brackets, key, indent
LONGEST_TEXT = 10_000  # characters
LONGEST_NUMBER = 100  # characters
DEEPEST = 50  # levels of lists and mappings

_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_NULLS = ("", "~", "null", "Null", "NULL")
_WHOLE = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_REAL = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_NOT_TEXT = re.compile("[\x00\ud800-\udfff]")
_TAGS = {f"tag:yaml.org,2002:{name}": name for name in ("str", "int", "float", "bool", "null", "seq", "map")}


class Block(dict[str, Any]):
    """A mapping. `place` is its own place ("recipe.yaml:3"), `places` are those of its entries."""

    def __init__(self, place: str) -> None:
        self.place, self.places = place, dict[str | int, str]()


class Items(list[Any]):
    """A list. `place` is its own place, `places` are those of its items, by index."""

    def __init__(self, place: str) -> None:
        self.place, self.places = place, dict[str | int, str]()


class Allowance:
    """Counts the expanded size of a file."""

    def __init__(self) -> None:
        self._left = LARGEST_EXPANDED

    def spend(self, value: Any, place: str, depth: int) -> None:
        """Count one more value inside `depth` lists and mappings. Raises RecipeError beyond the largest size."""
        if depth > DEEPEST:
            raise RecipeError("lists and mappings are nested too deeply", where=place, expected=f"{DEEPEST} levels")
        self._left -= CHARACTERS_PER_VALUE + (len(value) if isinstance(value, str) else 0)
        if self._left < 0:
            raise RecipeError(
                "the recipe is too large once aliases and for_each are written out",
                where=place,
                expected=f"at most {LARGEST_EXPANDED:,} characters",
            )


def read_yaml(path: Path, allowance: Allowance) -> Any:
    """The value of a YAML file of one document.

    Raises:
        RecipeError: with the line, if the file is not text, not YAML, too large, too deep, or refers to itself.
    """
    with path.open("rb") as file:
        content = file.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise RecipeError("the file is too large for a recipe", where=path, expected=f"at most {LARGEST_FILE:,} bytes")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        what, next_step = "the file is not text in UTF-8", "save it as UTF-8"
        got = f"byte {content[error.start]:#04x}"
        raise RecipeError(what, where=f"{path}:{line}", got=got, next=next_step) from None
    return _Reader(text, str(path), allowance).value()


def yaml_value(text: str, where: str) -> Any:
    """The value of one line of YAML. `where` is the place of every entry."""
    return _Reader(text, where, Allowance(), lines=False).value()


def copied(
    value: Any,
    allowance: Allowance,
    place: str,
    depth: int = 0,
    scalar: Callable[[Any, str], Any] = lambda value, key: value,
    key: str = "",
) -> Any:
    """A copy that shares no mapping or list with `value`. Entries keep their places.

    Args:
        place: the place of the copy, for errors.
        depth: the number of lists and mappings around the copy.
        scalar: gives the new value of a scalar, from the scalar and its key.
    """
    if isinstance(value, Block):
        allowance.spend(None, place, depth + 1)
        block = Block(value.place)
        block.places = dict(value.places)
        block.update((name, copied(item, allowance, place, depth + 1, scalar, name)) for name, item in value.items())
        return block
    if isinstance(value, Items):
        allowance.spend(None, place, depth + 1)
        items = Items(value.place)
        items.places = dict(value.places)
        items.extend(copied(item, allowance, place, depth + 1, scalar, key) for item in value)
        return items
    new = scalar(value, key)
    allowance.spend(new, place, depth)
    return new


class _Reader:
    """Builds values from the parser's events, one after another, so that every value is checked as it is read."""

    def __init__(self, text: str, where: str, allowance: Allowance, lines: bool = True) -> None:
        self._events, self._where, self._lines, self._allowance = _events(text, where, lines), where, lines, allowance
        self._anchors: dict[str, Any] = {}
        self._depth = 0

    def value(self) -> Any:
        value: Any = None
        documents = 0
        for event in self._events:
            documents += isinstance(event, DocumentStartEvent)
            if documents > 1:
                raise RecipeError("a second YAML document begins here", where=self._place(event), expected="one")
            if isinstance(event, NodeEvent):
                value = self._node(event)
        return value

    def _node(self, event: Any) -> Any:
        """The value that begins with `event`, a node event of ruamel's."""
        place = self._place(event)
        if isinstance(event, AliasEvent):
            return self._aliased(event.anchor, place)
        if event.anchor is not None:
            self._anchors[event.anchor] = _OPEN
        if isinstance(event, ScalarEvent):
            value = _scalar(event, place)
            self._allowance.spend(value, place, self._depth)
        else:
            value = self._collection(event, place)
        if event.anchor is not None:
            self._anchors[event.anchor] = value
        return value

    def _collection(self, event: Any, place: str) -> Block | Items:
        tag, is_mapping = _tag(event, place), isinstance(event, MappingStartEvent)
        if tag not in (None, "map" if is_mapping else "seq"):
            raise RecipeError(f"this is not a value of YAML's type {tag}", where=place)
        self._depth += 1
        self._allowance.spend(None, place, self._depth)
        value = self._mapping(place) if is_mapping else self._list(place)
        self._depth -= 1
        return value

    def _list(self, place: str) -> Items:
        items = Items(place)
        while not isinstance(event := next(self._events), SequenceEndEvent):
            items.places[len(items)] = self._place(event)
            items.append(self._node(event))
        return items

    def _mapping(self, place: str) -> Block:
        block, merged = Block(place), Block(place)
        while not isinstance(event := next(self._events), MappingEndEvent):
            at = self._place(event)
            is_merge = isinstance(event, ScalarEvent) and event.value == "<<" and event.implicit[0]
            key = self._node(event)
            value = self._node(next(self._events))
            if is_merge:
                _merge(value, merged, at)
                continue
            if not isinstance(key, str):
                next_step = None if isinstance(key, Block | Items) else "write it in quotes"
                raise RecipeError("a key should be text", where=at, got=shortened(key), next=next_step)
            if key in block:
                raise RecipeError("this is not valid YAML: found duplicate key", where=at, got=shortened(key))
            block[key], block.places[key] = value, at
        _merge(merged, block, place)
        return block

    def _aliased(self, anchor: str, place: str) -> Any:
        if anchor not in self._anchors:
            raise RecipeError(f"this is not valid YAML: found undefined alias '{shortened(anchor)}'", where=place)
        if (value := self._anchors[anchor]) is _OPEN:
            raise RecipeError(f"the alias *{shortened(anchor)} refers to a value that contains it", where=place)
        return copied(value, self._allowance, place, self._depth)

    def _place(self, event: Event) -> str:
        return f"{self._where}:{event.start_mark.line + 1}" if self._lines else self._where


_OPEN = object()  # an anchor whose value is still being read


def _events(text: str, where: str, lines: bool) -> Iterator[Event]:
    try:
        yield from YAML(typ="safe", pure=True).parse(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{where}:{mark.line + 1}" if mark and lines else where
        raise RecipeError(f"this is not valid YAML: {error.problem or error.context}", where=place) from None
    except (YAMLError, ValueError, OverflowError) as error:  # of a control character, an escape beyond Unicode
        raise RecipeError(f"this is not valid YAML: {error}", where=where) from None


def _merge(value: Any, merged: Block, place: str) -> None:
    """Add the missing keys of one or several mappings."""
    for block in value if isinstance(value, Items) else [value]:
        if not isinstance(block, Block):
            raise RecipeError("<< merges mappings", where=place, got=shortened(block))
        for key, item in block.items():
            if key not in merged:
                merged[key], merged.places[key] = item, block.places[key]


def _tag(event: Any, place: str) -> str | None:
    """The last word of a tag of YAML's core schema. Raises RecipeError for another tag, such as a Python object."""
    if event.tag is None:
        return None
    if (tag := str(event.tag)) not in _TAGS:
        raise RecipeError("this YAML tag is not supported", where=place, got=shortened(tag))
    return _TAGS[tag]


def _scalar(event: ScalarEvent, place: str) -> Any:
    tag, text = _tag(event, place), str(event.value)
    if len(text) > LONGEST_TEXT:
        raise RecipeError("the text is too long", where=place, expected=f"at most {LONGEST_TEXT:,} characters")
    if invalid := _NOT_TEXT.search(text):
        raise RecipeError("the text holds an invalid character", where=place, got=f"\\u{ord(invalid[0]):04x}")
    if tag == "str" or (tag is None and not event.implicit[0]):
        return text
    if tag in (None, "null") and text in _NULLS:
        return None
    if tag in (None, "bool") and text in _BOOLEANS:
        return _BOOLEANS[text]
    if tag in (None, "int", "float") and (number := _number(text, tag, place)) is not None:
        return number
    if tag is None:
        return text
    raise RecipeError(f"this is not a value of YAML's type {tag}", where=place, got=shortened(text))


def _number(text: str, tag: str | None, place: str) -> float | None:
    is_whole, is_real = _WHOLE.fullmatch(text) is not None, _REAL.fullmatch(text) is not None
    if len(text) > LONGEST_NUMBER and (is_whole or is_real):
        raise RecipeError("the number is too long", where=place, expected=f"at most {LONGEST_NUMBER} characters")
    if is_whole and tag != "float":
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if is_real and tag != "int":
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return None
