"""Patterns of image paths, for the options `include` and `exclude` of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import lru_cache

ANY_FOLDERS = "**"


def matches_any(path: str, patterns: Sequence[str]) -> bool:
    """Whether a relative path with "/", or a folder in it, matches one of the patterns.

    `*` stands for any characters except "/", `?` for a single one, `[…]` for one of a set, and `**` for any number of
    folders. A pattern without "/" may match at any depth: `*_mask.png`, `rejected`. A pattern that matches a folder
    matches all files in it. Case counts.
    """
    names = path.split("/")
    return any(_matches(names, _parts(pattern)) for pattern in patterns)


@lru_cache
def _parts(pattern: str) -> tuple[str, ...]:
    parts = tuple(pattern.strip("/").split("/"))
    return parts if "/" in pattern.rstrip("/") else (ANY_FOLDERS, *parts)


def _matches(names: Sequence[str], parts: Sequence[str]) -> bool:
    """Whether the first names match all parts. The further names are what a matching folder holds."""
    if not parts:
        return True
    if not names:
        return False
    if parts[0] == ANY_FOLDERS:
        return _matches(names, parts[1:]) or _matches(names[1:], parts)
    return fnmatchcase(names[0], parts[0]) and _matches(names[1:], parts[1:])
