"""Numbers and tables of results in hand-written pages: a comment says which, and the text between is filled in.

    The student reaches <!-- number: quickstart > mean_top1 > accuracy/int8 as percent -->94.1%<!-- end -->.

    <!-- table: quickstart > models -->
    <!-- end -->

`make figures` fills the text in, and a test fails where it differs from the result. Markdown readers hide the comments.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from docs.generate import numbers
from docs.generate.records import ROOT, read_result, result_names
from docs.generate.tables import tables_of

CITATION = re.compile(r"<!-- (number|table): ([^\n]+?) -->(.*?)<!-- end -->", re.DOTALL)
STEP, SHOWN, EVERY = " > ", " as ", "*"
NAMED_BY = ("name", "method", "draw", "drawn", "calibration")  # what tells items of a list from each other

GATHERED: dict[str, Callable[[list[float]], float]] = {
    "mean": statistics.mean,
    "median": statistics.median,
    "min": min,
    "max": max,
    "count": len,
}
FORMATS: dict[str, Callable[..., numbers.Format]] = {
    "percent": lambda decimals=1: numbers.fixed(decimals, 100, "%"),
    "points": lambda decimals=1: numbers.fixed(decimals, 100),
    "number": lambda decimals=2: numbers.fixed(decimals),
    "signed": lambda decimals=1: numbers.fixed(decimals, signed=True),
    "ms": lambda digits=3: numbers.significant(digits, " ms"),
    "s": lambda digits=3: numbers.significant(digits, " s"),
    "dB": lambda decimals=1: numbers.fixed(decimals, unit=" dB"),
    "MiB": lambda decimals=2: numbers.fixed(decimals, 2**-20, " MiB"),
    "millions": lambda decimals=1: numbers.fixed(decimals, 1e-6, " M"),
}


class CitationError(ValueError):
    """A citation names something that is not in the results."""


def cited_files() -> list[Path]:
    """The hand-written pages that may cite results: the README and the pages of the site."""
    docs = ROOT / "docs"
    not_cited = {docs / "reference", docs / "results", docs / "README.md"}
    pages = (path for path in sorted(docs.rglob("*.md")) if not not_cited & {path, *path.parents})
    return [ROOT / "README.md", *pages]


def filled(text: str) -> str:
    """The text with every citation filled in.

    Raises:
        CitationError: a citation names no result, or nothing in it.
    """
    return CITATION.sub(_filled, text)


def number(citation: str) -> str:
    """A number as `quickstart > mean_top1 > accuracy/int8 as percent` asks for it.

    Raises:
        CitationError: there is no such result, no such figure, or no such format.
    """
    path, as_, words = citation.rpartition(SHOWN)
    value = found(path if as_ else citation)
    for word in words.split() if as_ else ():
        value = _shown(value, word, citation)
    if not isinstance(value, str):
        raise CitationError(f"{citation}: no format at the end, such as 'as percent'; one of {', '.join(FORMATS)}")
    return value


def found(path: str) -> Any:
    """What lies at a path in the results.

    Raises:
        CitationError: nothing does.
    """
    name, *steps = (step.strip() for step in path.split(STEP))
    if name not in result_names():
        raise CitationError(f"{path}: there is no result '{name}'; one of {', '.join(result_names())}")
    return _below(read_result(name), steps, path)


def paths_in(name: str) -> Iterator[tuple[str, str]]:
    """Every number of a result with the path that cites it."""
    yield from ((STEP.join(path), shown) for path, shown in _leaves(read_result(name), (name,)))


def _filled(match: re.Match[str]) -> str:
    kind, citation, _ = match.groups()
    text = number(citation) if kind == "number" else f"\n\n{_table(citation)}\n\n"
    return f"<!-- {kind}: {citation} -->{text}<!-- end -->"


def _table(citation: str) -> str:
    name, *key = citation.split(STEP)
    if name not in result_names():
        raise CitationError(f"{citation}: there is no result '{name}'; one of {', '.join(result_names())}")
    tables = {one.key: one for one in tables_of(name)}
    if key and key[0] not in tables:
        raise CitationError(f"{citation}: no table '{key[0]}'; one of {', '.join(tables)}")
    return tables[key[0] if key else next(iter(tables))].markdown()


def _below(value: Any, steps: list[str], path: str) -> Any:
    if not steps:
        return value
    step, *rest = steps
    if isinstance(value, list) and step == EVERY:
        return [_below(item, rest, path) for item in value]
    inner = _items(value)
    if step not in inner:
        raise CitationError(f"{path}: no '{step}' there; one of {', '.join(inner) or 'nothing'}")
    return _below(inner[step], rest, path)


def _items(value: Any) -> dict[str, Any]:
    """What is inside a record by its keys, or inside a list by the names of its items and by their positions."""
    if isinstance(value, Mapping):
        return dict(value)
    if not isinstance(value, list):
        return {}
    by_position = {str(index): item for index, item in enumerate(value)}
    records = [item for item in value if isinstance(item, Mapping)]
    named = {str(item[key]): item for item in records for key in NAMED_BY if isinstance(item.get(key), str)}
    return {**by_position, **named}


def _shown(value: Any, word: str, citation: str) -> Any:
    name, _, argument = word.partition(":")
    if name in GATHERED and isinstance(value, list):
        return GATHERED[name](value)
    if name not in FORMATS:
        raise CitationError(f"{citation}: no '{name}'; one of {', '.join([*GATHERED, *FORMATS])}")
    shown = FORMATS[name](int(argument)) if argument else FORMATS[name]()
    if numbers.has_range(value):
        return numbers.ranged(value, shown)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CitationError(f"{citation}: this is no number, but {type(value).__name__}")
    return shown(value)


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    if numbers.has_range(value):
        yield path, numbers.ranged(value, numbers.significant(4))
    for step, inner in _items(value).items():
        if isinstance(value, list) and step.isdigit() and len(_items(value)) > len(value):
            continue  # the item is listed by its name
        yield from _leaves(inner, (*path, step))
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield path, numbers.significant(6)(value)
