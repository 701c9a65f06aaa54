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
    """Whether the first names match all parts. The further names are what a matching folder holds.

    The work is bounded by names × parts: `matched` holds the numbers of parts that the names so far can match.
    """
    matched = _with_any_folders({0}, parts)
    for name in names:
        following = {count for count in matched if count < len(parts) and parts[count] == ANY_FOLDERS}
        following |= {count + 1 for count in matched if count < len(parts) and fnmatchcase(name, parts[count])}
        matched = _with_any_folders(following, parts)
        if len(parts) in matched:
            return True
    return False


def _with_any_folders(matched: set[int], parts: Sequence[str]) -> set[int]:
    """The numbers of matched parts, where `**` may also match no folder."""
    for count in range(len(parts)):
        if count in matched and parts[count] == ANY_FOLDERS:
            matched.add(count + 1)
    return matched
