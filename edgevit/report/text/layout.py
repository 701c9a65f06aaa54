"""Paragraphs and tables of at most 80 columns, in Markdown."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence

WIDTH = 80
MARKS = re.compile(r"`|<(?=[A-Za-z/!?])|(?<=\])\(")  # of code, HTML and links
# Beginnings of headings, lists, quotations, tables and code blocks.
BLOCKS = re.compile(r"^( *\d*)(?=#{1,6}(?:\s|$)|[-+*](?:\s|$)|>|\||[=-]+$|~~~|(?<=\d)[.)]\s)")


def paragraph(text: str) -> str:
    """Wrapped Markdown. Marks in names are escaped, so that they make no HTML, link, code or block."""
    marker = next((mark for mark in ("- ", "> ") if text.startswith(mark)), "")
    plain = BLOCKS.sub(r"\1\\", MARKS.sub(r"\\\g<0>", text.removeprefix(marker)))
    first, *others = wrapped(marker + plain).split("\n")
    quote = "> " if marker == "> " else ""
    return "\n".join([first, *(quote + BLOCKS.sub(r"\1\\", line.removeprefix(quote)) for line in others)])


def wrapped(text: str) -> str:
    """Text in lines of at most WIDTH characters. The lines of a list or a quotation are indented."""
    indent = text[: len(text) - len(text.lstrip())]
    hanging = "> " if text.startswith("> ") else indent + "  " if text.lstrip().startswith("- ") or indent else ""
    return textwrap.fill(text.strip(), WIDTH, initial_indent=indent, subsequent_indent=hanging, break_on_hyphens=False)


def in_tables(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A table, or several tables if the columns do not fit 80 characters."""
    first = 1
    while first < len(rows[0]):
        last = first + 1
        while last < len(rows[0]) and _fits([(row[0], *row[first : last + 1]) for row in rows]):
            last += 1
        yield aligned([(row[0], *row[first:last]) for row in rows], text_columns=1)
        first = last


def _fits(rows: Sequence[Sequence[str]]) -> bool:
    return len(aligned(rows, text_columns=1).splitlines()[0]) <= WIDTH


def aligned(rows: Sequence[Sequence[str]], text_columns: int = 2) -> str:
    """A Markdown table with aligned columns. The columns after the `text_columns` first ones hold numbers."""
    rows = [[" ".join(cell.split()).replace("|", r"\|") for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    are_numbers = [column >= text_columns for column in range(len(widths))]

    def line(row: Sequence[str]) -> str:
        cells = (
            cell.rjust(width) if is_number else cell.ljust(width)
            for cell, width, is_number in zip(row, widths, are_numbers, strict=True)
        )
        return f"| {' | '.join(cells)} |"

    rules = [
        "-" * (width + 1) + (":" if is_number else "-") for width, is_number in zip(widths, are_numbers, strict=True)
    ]
    return "\n".join([line(rows[0]), f"|{'|'.join(rules)}|", *map(line, rows[1:])])
