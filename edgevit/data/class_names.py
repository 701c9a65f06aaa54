"""Class names: reading them from a file, checking them, and notes about names that are easily confused."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from edgevit.artifacts import composed
from edgevit.data.preprocess import file_content
from edgevit.errors import DataError, listed

__all__ = ["alike_notes", "check_class_names", "check_names_fit", "composed", "is_class_name", "names_in_file"]

_NO_TEXT = ("Cc", "Cs", "Zl", "Zp")  # control characters, surrogates, line and paragraph separators
_BETWEEN_WORDS = re.compile(r"[\s_-]+")


def is_class_name(name: str) -> bool:
    """Whether a name is one line of text.

    Control characters would act on a terminal. Lone surrogates cannot be written to a file.
    """
    return bool(name) and not any(unicodedata.category(character) in _NO_TEXT for character in name)


def check_class_names(classes: Sequence[str], where: str) -> None:
    """Raise DataError if a name is not one line of text, or if two names are equal."""
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


def check_names_fit(names: Sequence[str], count: int, where: object) -> None:
    """Raise DataError if these are not as many names as a model has classes."""
    if len(names) != count:
        what = "the number of names is not the model's number of classes"
        raise DataError(what, where=where, got=len(names), expected=count)


def names_in_file(file: Path) -> tuple[str, ...]:
    """The class names in a UTF-8 text file, one per line. Blank lines at the end do not count.

    Raises DataError if the file is not UTF-8 text, or if `check_class_names` refuses a name.
    """
    try:
        text = file_content(file).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError("this file is not UTF-8 text", where=file, expected="one class name per line") from None
    except ValueError as error:
        raise DataError(str(error), where=file, expected="one class name per line") from None
    names = tuple(composed(line) for line in text.rstrip("\r\n").splitlines())
    check_class_names(names, str(file))
    return names


def alike_notes(classes: Sequence[str]) -> list[str]:
    """A note about class names that differ only in case, spaces, underscores or hyphens.

    Names of a single character are not compared: 'a' and 'A' are two letters.
    """
    groups: dict[str, list[str]] = {}
    for name in classes:
        if len(name) > 1:
            groups.setdefault(_folded(name), []).append(name)
    alike = [" and ".join(f"'{name}'" for name in names) for names in groups.values() if len(names) > 1]
    return [f"classes whose names differ only in spelling count as different: {listed(alike)}"] if alike else []


def _folded(name: str) -> str:
    return _BETWEEN_WORDS.sub("", unicodedata.normalize("NFKC", name).casefold()) or name
