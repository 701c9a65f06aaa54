"""Names of classes that would make trouble later."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from edgevit.errors import DataError, listed

_BETWEEN_WORDS = re.compile(r"[\s_-]+")


def check_class_names(classes: Sequence[str], where: str) -> None:
    """Raise DataError for a name that cannot be a line of a file of labels, or two equal: before any training."""
    for name in classes:
        if name.splitlines() != [name]:
            raise DataError(
                "a class name has to be one line", where=where, got=repr(name), next="rename the folder or the label"
            )
    if repeated := [repr(name) for name, count in Counter(classes).items() if count > 1]:
        raise DataError("two classes have the same name", where=where, got=listed(repeated), next="rename one of them")


def alike_notes(classes: Sequence[str]) -> list[str]:
    """A note for classes whose names are the same but for case, spaces, underscores and hyphens.

    Names of a single character are what they are: 'a' and 'A' are two letters.
    """
    groups: dict[str, list[str]] = {}
    for name in classes:
        if len(name) > 1:
            groups.setdefault(_folded(name), []).append(name)
    alike = [" and ".join(f"'{name}'" for name in names) for names in groups.values() if len(names) > 1]
    return [f"classes whose names differ in spelling alone are taken as different: {listed(alike)}"] if alike else []


def _folded(name: str) -> str:
    return _BETWEEN_WORDS.sub("", unicodedata.normalize("NFKC", name).casefold()) or name
