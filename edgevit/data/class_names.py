"""Names of classes: a file of them, the form in which all are compared, and names that would make trouble later."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from edgevit.artifacts import composed
from edgevit.data.preprocess import file_content
from edgevit.errors import DataError, listed

__all__ = ["alike_notes", "check_class_names", "composed", "is_class_name", "names_in_file"]

_NO_TEXT = ("Cc", "Cs", "Zl", "Zp")  # control characters, surrogates, ends of lines and of paragraphs
_BETWEEN_WORDS = re.compile(r"[\s_-]+")


def is_class_name(name: str) -> bool:
    """Whether a name is one line of text: control characters would reach a terminal, lone surrogates no file."""
    return bool(name) and not any(unicodedata.category(character) in _NO_TEXT for character in name)


def check_class_names(classes: Sequence[str], where: str) -> None:
    """Raise DataError for a name that cannot be a line of a file of labels, or two equal: before any training."""
    for name in classes:
        if not is_class_name(name):
            raise DataError(
                "a class name has to be one line of text, without control characters",
                where=where,
                got=ascii(name),
                next="rename the folder or the label",
            )
    if repeated := [repr(name) for name, count in Counter(classes).items() if count > 1]:
        raise DataError("two classes have the same name", where=where, got=listed(repeated), next="rename one of them")


def names_in_file(file: Path) -> tuple[str, ...]:
    """The class names in a file of UTF-8 text, one a line; blank lines at the end do not count.

    Raises DataError where it is no such text, or a name will not do.
    """
    try:
        text = file_content(file).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError("this is no text in UTF-8", where=file, expected="one class name a line") from None
    except ValueError as error:
        raise DataError(str(error), where=file, expected="one class name a line") from None
    names = tuple(composed(line) for line in text.rstrip("\r\n").splitlines())
    check_class_names(names, str(file))
    return names


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
