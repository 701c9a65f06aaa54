"""pydantic's problems as errors for the reader of a recipe: the line, the nearest name, what is expected."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from edgevit.configs import DATASETS, OBJECTIVES, STAGES, Recipe
from edgevit.errors import RecipeError, did_you_mean, shortened
from edgevit.yaml_reader import Block, Items

Location = tuple[str | int, ...]
MISTAKES_SHOWN = 20


def mistakes_of(error: ValidationError, document: Block) -> list[RecipeError]:
    """An error for each of pydantic's first problems."""
    return [_explained(problem, document) for problem in _problems(error)[: MISTAKES_SHOWN + 1]]


def combined(mistakes: Sequence[RecipeError]) -> RecipeError:
    """One error of several; of one alone, itself."""
    if len(mistakes) == 1:
        return mistakes[0]
    more = ["there are more mistakes: fix these first"] if len(mistakes) > MISTAKES_SHOWN else []
    return RecipeError("\n".join([*map(str, mistakes[:MISTAKES_SHOWN]), *more]))


def suggestion(problem: Any) -> str | None:
    """The likely correction of the value in one of pydantic's problems, if there is one."""
    if problem["type"] == "string_type" and isinstance(problem["input"], bool | int | float):
        return "write it in quotes"
    if problem["type"] != "literal_error":
        return None
    return did_you_mean(str(problem["input"]), re.findall(r"'([^']+)'", problem["ctx"]["expected"]))


def place_of(document: Block, path: Location) -> str:
    """The place of the key or item at `path`, or of the nearest parent that the document has."""
    node: Any = document
    place = document.place
    for part in path:
        if part not in getattr(node, "places", ()):
            break
        place, node = node.places[part], node[part]
    return place


def _problems(error: ValidationError) -> list[Any]:
    """pydantic's problems, without "too short" of a list whose items are wrong."""
    problems = error.errors(include_url=False)
    locations = [problem["loc"] for problem in problems]
    return [
        problem
        for problem in problems
        if problem["type"] != "too_short"
        or not any(loc[: len(problem["loc"])] == problem["loc"] != loc for loc in locations)
    ]


def _explained(problem: Any, document: Block) -> RecipeError:
    loc: Location = problem["loc"]
    path = _without_tags(loc, document)
    where = place_of(document, path)
    is_unknown = problem["type"] == "extra_forbidden"  # then `path` ends with the key itself
    owner, name = _owner(path[:-1] if is_unknown else path, document), shortened(loc[-1]) if loc else ""
    if is_unknown:
        known = _known_keys(loc)
        hint = did_you_mean(name, known) or f"It has: {', '.join(known)}."
        return RecipeError(f"'{name}' is no key of {owner}. {hint}", where=where)
    if problem["type"] == "missing":
        return RecipeError(f"{owner} needs the key '{name}'", where=where)
    if problem["type"] == "union_tag_invalid":
        tag, got = problem["ctx"]["discriminator"].strip("'"), shortened(problem["ctx"]["tag"])
        known = [expected.strip(" '") for expected in problem["ctx"]["expected_tags"].split(",")]
        return RecipeError(
            f"'{got}' is no {tag}. {did_you_mean(got, known) or ''}".rstrip(),
            where=where,
            expected=f"one of {', '.join(known)}",
        )
    if problem["type"] == "union_tag_not_found":
        return RecipeError(f"{owner} needs the key {problem['ctx']['discriminator']}", where=where)
    message = str(problem["msg"]).removeprefix("Value error, ")
    key = f"'{shortened(path[-1])}'" if path and isinstance(path[-1], str) else owner
    label = owner if key in owner else f"{key} of {owner}"
    value = None if isinstance(problem["input"], Mapping) else _as_written(problem["input"])
    return RecipeError(f"{label}: {message[0].lower()}{message[1:]}", where=where, got=value, next=suggestion(problem))


def _as_written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else shortened(value)


def _without_tags(loc: Location, document: Block) -> Location:
    """pydantic's location without union tags, which the document does not have."""
    node: Any = document
    path: list[str | int] = []
    for position, part in enumerate(loc):
        if part in getattr(node, "places", ()):
            node = node[part]
            path.append(part)
        elif position == len(loc) - 1:
            break
    return tuple(path)


def _owner(path: Location, document: Block) -> str:
    """The stage, data set or key that a path lies in, in words."""
    match path:
        case ("stages", int(index), *rest):
            stage = document["stages"][index]
            name = f"stage '{shortened(stage.get('stage', '?'))}'" if isinstance(stage, Block) else f"stage {index + 1}"
            keys = [part for part in rest if isinstance(part, str)]
            is_nested = isinstance(stage, Block) and keys and isinstance(stage.get(keys[0]), Block | Items)
            return f"'{shortened(keys[0])}' of {name}" if is_nested else name
        case ("datasets", str(name), *_):
            return f"data set '{shortened(name)}'"
        case (str(name), *_):
            return f"'{shortened(name)}'"
        case _:
            return "the recipe"


def _known_keys(loc: Location) -> list[str]:
    """The keys of the record that holds the unknown key. Union tags in `loc` name the record."""
    record: type[BaseModel] = Recipe
    for part in loc[:-1]:
        tagged = STAGES.get(str(part)) or DATASETS.get(str(part)) or OBJECTIVES.get(str(part))
        field = record.model_fields.get(str(part))
        record = tagged or (_record_in(field.annotation) if field else None) or record
    return list(record.model_fields)


def _record_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_record_in, getattr(annotation, "__args__", ()))), None)
