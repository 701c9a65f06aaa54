"""Arguments of the Python interface, checked as the options of the command line are. Errors name the argument."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel

from edgevit.bounds import SIDE, Range
from edgevit.errors import RecipeError, shortened

N = TypeVar("N", int, float)


def argument(function: str, name: str) -> str:
    """An argument as errors name it: `edgevit.profile(threads=…)`, `edgevit.Model.predict(top=…)`."""
    return f"edgevit.{function}({name}=…)"


def path_argument(value: Any, where: str) -> Path:
    """A path, with the home folder for `~`. Raises RecipeError if the value is neither text nor a path."""
    if not isinstance(value, str | Path):
        raise RecipeError("this is no path", where=where, got=_shown(value), expected="a path, as text or pathlib.Path")
    try:
        return Path(value).expanduser()
    except RuntimeError as error:  # a user who does not exist
        raise RecipeError(f"the path cannot be expanded: {error}", where=where, got=value) from None


def text_argument(value: Any, where: str) -> str:
    """Text. Raises RecipeError for all other values."""
    if not isinstance(value, str):
        raise RecipeError("this is no text", where=where, got=_shown(value), expected="text")
    return value


def flag_argument(value: Any, where: str) -> bool:
    """True or False. Raises RecipeError for all other values."""
    if not isinstance(value, bool):
        raise RecipeError("this is neither true nor false", where=where, got=_shown(value), expected="True or False")
    return value


def names_argument(value: Any, where: str) -> tuple[str, ...]:
    """Several names. Raises RecipeError if the value is one text, or if a name is no text."""
    names = () if isinstance(value, str) or not hasattr(value, "__iter__") else tuple(value)
    if isinstance(value, str) or not hasattr(value, "__iter__") or not all(isinstance(name, str) for name in names):
        raise RecipeError("these are no names", where=where, got=_shown(value), expected='a list such as ["a", "b"]')
    return tuple(map(str, names))


def number_argument(value: Any, kind: type[N], within: Range, where: str) -> N:
    """A number within a range; scalars of numpy too. Raises RecipeError for all other values."""
    number = plain(value, where)
    kinds = (int,) if kind is int else (int, float)
    if isinstance(number, bool) or not isinstance(number, kinds) or number not in within:
        whole = "a whole number, " if kind is int else "a number, "
        raise RecipeError("this number does not fit", where=where, got=_shown(value), expected=f"{whole}{within}")
    return kind(number)


def size_argument(value: Any, where: str) -> tuple[int, int]:
    """(height, width) in pixels, from one side or from two."""
    value = plain(value, where)
    sides = value if isinstance(value, list) else (value, value)
    if len(sides) != 2:
        raise RecipeError("this is no size", where=where, got=_shown(value), expected="one side, or (height, width)")
    height, width = (number_argument(side, int, SIDE, where) for side in sides)
    return height, width


def check_options(options: Mapping[str, Any], taken: Sequence[str], function: str) -> dict[str, Any]:
    """The options of a stage as plain values.

    Args:
        taken: fields of the stage that the function itself fills.

    Raises:
        RecipeError: one of these fields is given, or a value is none that a recipe could hold.
    """
    for name in options:
        if name in taken:
            raise RecipeError(f"'{name}' is no option here", where=argument(function, name), next="leave it out")
    return {name: plain(value, argument(function, name)) for name, value in options.items()}


def as_settings(settings: Any, where: str) -> list[str]:
    """Changed values of a recipe by their place, in the form that `--set` takes: PLACE=VALUE."""
    if not isinstance(settings, Mapping):
        expected = 'a mapping such as {"stages.student.epochs": 60}'
        raise RecipeError("these are no settings", where=where, got=_shown(settings), expected=expected)
    return [f"{place}={json.dumps(plain(value, where), ensure_ascii=False)}" for place, value in settings.items()]


def plain(value: Any, where: str) -> Any:
    """A value with paths as text, scalars and arrays of numpy as numbers, and sequences as lists.

    Raises:
        RecipeError: the value is none that a recipe could hold.
    """
    if isinstance(value, np.generic | np.ndarray):
        return plain(value.tolist(), where)
    if isinstance(value, Path):
        return str(value.expanduser())
    if isinstance(value, Mapping):
        return {str(key): plain(inner, where) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner, where) for inner in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, BaseModel):
        return plain(value.model_dump(mode="json"), where)
    expected = "numbers, text, true or false, and lists and mappings of them"
    raise RecipeError("a recipe cannot hold this value", where=where, got=_shown(value), expected=expected)


def _shown(value: Any) -> str:
    return shortened(f"{type(value).__name__} {value!r}")
