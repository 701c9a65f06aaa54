"""Types, bounds, units and defaults of an option in plain words, read from its pydantic field."""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from docs.generate.markdown import code, listed
from edgevit import bounds
from edgevit.configs.fields import ReadsFile, Takes

Link = Callable[[Sequence[type[BaseModel]]], str]

# What an artifact of each kind is called where an option names the stage that makes it.
KINDS = {
    "checkpoint": "a checkpoint",
    "onnx": "an ONNX file",
    "engine": "a compiled model",
    "evaluation": "an accuracy",
    "latency": "a latency",
    "check": "a check",
    "attention": "pictures of attention",
}
UNITS_OF_NAMES = {"_ms": "milliseconds", "_mib": "MiB", "_db": "decibels", "_degrees": "degrees", "_s": "seconds"}
UNITS_OF_RANGES = {
    bounds.SIDE: "pixels",
    bounds.DECIBELS: "decibels",
    bounds.DEGREES: "degrees",
    bounds.MEASURED_S: "seconds",
}


def type_in_words(name: str, field: FieldInfo, link: Link) -> str:
    """What may stand there: `whole number of pixels, at least 1 and at most 8,192`, or the names to choose from."""
    words, unit = _words(field.annotation, tuple(field.metadata), link), unit_of(name, field)
    return words.replace("number", f"number of {unit}", 1) if unit else words


def unit_of(name: str, field: FieldInfo) -> str:
    """The unit of an option, by the end of its name or by its range; empty where it has none."""
    for end, unit in UNITS_OF_NAMES.items():
        if name.endswith(end):
            return unit
    ranges = _ranges(field.annotation, tuple(field.metadata))
    return next((UNITS_OF_RANGES[one] for one in ranges if one in UNITS_OF_RANGES), "")


def default_in_words(field: FieldInfo) -> str:
    """`required`, `not set by default`, or the default as a recipe would give it."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "not set by default"
    if value == () or value == {}:
        return "empty by default"
    if isinstance(value, BaseModel) and not value.model_dump(exclude_defaults=True):
        return "default: the defaults of its own options"
    return f"default {code(as_recipe(value))}"


def as_recipe(value: Any) -> str:
    """A value as one line of YAML."""
    if isinstance(value, BaseModel):
        return as_recipe({**_names_of(value), **value.model_dump(exclude_defaults=True)})
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {as_recipe(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(as_recipe, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def records_in(annotation: Any) -> list[type[BaseModel]]:
    """The records with options of their own that a type holds, in their order."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [record for argument in get_args(annotation) for record in records_in(argument)]


def _words(annotation: Any, marks: tuple[Any, ...], link: Link) -> str:
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *more = get_args(annotation)
        return _words(inner, (*more, *marks), link)
    if origin in (Union, types.UnionType):
        choices = [choice for choice in get_args(annotation) if choice is not type(None)]
        if len(records := records_in(annotation)) == len(choices):
            return link(records)
        return listed([_words(choice, marks, link) for choice in choices], "or")
    if origin is Literal:
        return listed([code(as_recipe(choice)) for choice in get_args(annotation)], "or")
    if origin is tuple:
        return _list_in_words(get_args(annotation), marks, link)
    if origin is dict:
        records = records_in(annotation)
        return f"mapping of names, each value: {link(records)}" if records else "mapping of names to values"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return link([annotation])
    return _plain_in_words(annotation, marks)


def _list_in_words(items: Sequence[Any], marks: tuple[Any, ...], link: Link) -> str:
    item = _words(items[0], tuple(mark for mark in marks if isinstance(mark, Takes)), link)
    return f"list, each item: {item}" if items[-1] is Ellipsis else f"list of {len(items)}, each: {item}"


def _plain_in_words(annotation: Any, marks: tuple[Any, ...]) -> str:
    takes = next((mark for mark in marks if isinstance(mark, Takes)), None)
    if takes is not None:
        return _reference_in_words(takes)
    if any(isinstance(mark, ReadsFile) for mark in marks):
        return "path of a file"
    name = {bool: "`true` or `false`", int: "whole number", float: "number", str: "text", Any: "any value"}[annotation]
    allowed = next((mark for mark in marks if isinstance(mark, bounds.Range)), None)
    return name if allowed is None else f"{name}, {allowed}"


def _reference_in_words(takes: Takes) -> str:
    if takes.kinds == ("dataset",):
        return "data set with its role, such as `photos.train`, or the id of a stage that makes a data set"
    return f"id of an earlier stage that makes {listed([KINDS[kind] for kind in takes.kinds], 'or')}"


def _ranges(annotation: Any, marks: Sequence[Any]) -> list[bounds.Range]:
    if get_origin(annotation) is Annotated:
        marks = (*marks, *annotation.__metadata__)
    inner = [one for argument in get_args(annotation) for one in _ranges(argument, ())]
    return [mark for mark in marks if isinstance(mark, bounds.Range)] + inner


def _names_of(record: BaseModel) -> dict[str, Any]:
    """What tells a record from its siblings, such as `loss: soft`, is shown though it is a default."""
    return {name: getattr(record, name) for name in ("loss", "source", "stage") if hasattr(record, name)}
