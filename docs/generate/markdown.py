"""Small pieces of Markdown."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

CODE = re.compile(r"(`+[^`]+`+)")
SPECIAL = re.compile(r"([*_<>\[\]{}$~])")
OPTION = re.compile(r"(?<![\w`-])--[a-z][\w-]*")  # of a command


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table. The first column is aligned left, and so are columns of text; columns of numbers right."""
    cells = [[_cell(value) for value in row] for row in rows]
    marks = ["---:" if index and _holds_numbers(cells, index) else "---" for index in range(len(header))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (list(map(_cell, header)), marks, *cells))


def sentence(text: str) -> str:
    """Plain text with a capital letter at the start and a full stop at the end."""
    text = plain(" ".join(text.split()))
    if not text:
        return ""
    start = text if text[0] in "`'\"" or text[:2].isupper() else text[0].upper() + text[1:]
    return start if start[-1] in ".!?…" else f"{start}."


def plain(text: str) -> str:
    """Text whose stars, brackets and so on are no Markdown; code in backticks stays, and `--options` become code."""
    return outside_code(text, lambda prose: OPTION.sub(r"`\g<0>`", SPECIAL.sub(r"\\\1", prose)))


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """The text with what is not in backticks changed."""
    return "".join(part if index % 2 else change(part) for index, part in enumerate(CODE.split(text)))


def code(text: object) -> str:
    """The text in backticks."""
    return f"`{text}`"


def listed(items: Sequence[str], last: str = "and") -> str:
    """`a, b and c`."""
    return f"{', '.join(items[:-1])} {last} {items[-1]}" if len(items) > 1 else "".join(items)


def page(title: str, *parts: str, target: str = "") -> str:
    """A page of Markdown: a title, and parts with an empty line between them."""
    label = f"({target})=\n" if target else ""
    return "\n\n".join([f"{label}# {title}", *(part.strip("\n") for part in parts if part)]) + "\n"


def toctree(entries: Iterable[str], *options: str) -> str:
    """A table of contents of MyST's."""
    return "\n".join(["```{toctree}", *(f":{option}:" for option in options), "", *entries, "```"])


def _cell(value: str) -> str:
    return " ".join(str(value).split()).replace("|", r"\|")


def _holds_numbers(rows: Sequence[Sequence[str]], column: int) -> bool:
    filled = [row[column] for row in rows if row[column] not in ("", "–")]
    return bool(filled) and all(value.strip("*")[:1] in "0123456789−+±" for value in filled)
