"""Printing of commands: tables, JSON, and the next command."""

from __future__ import annotations

import json
import shlex
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from edgevit.cli.machine import is_utf8
from edgevit.cli.program import as_called
from edgevit.disks import check_out as check_out
from edgevit.disks import whole_or_not_at_all
from edgevit.terminal import printable, printable_line

if TYPE_CHECKING:
    from edgevit.context import Context

WIDTH, SHORTEST_NAME = 80, 12


def echo(text: str = "", err: bool = False, nl: bool = True) -> None:
    """Print text, on stderr if `err`. Every command prints through here, so that no name steers the terminal."""
    typer.echo(printable(text), err=err, nl=nl)


def say(sentence: str, indent: str = "") -> None:
    """Print a sentence in lines that fit the terminal. A name that is longer stays whole."""
    lines = textwrap.fill(
        sentence,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    echo(lines)


def say_note(note: str) -> None:
    """Print a note on stderr, apart from the result."""
    echo(note, err=True)


def print_json(value: Any) -> None:
    """Print JSON. Text is escaped where the terminal cannot show it, or would obey it."""
    echo(json.dumps(value, indent=2, ensure_ascii=not is_utf8(sys.stdout.encoding), default=str))


def print_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print columns as wide as their widest cell, numbers to the right."""
    cells = [list(headers), *([printable_line(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    are_numbers = [all(_is_number(row[i]) for row in cells[1:]) for i in range(len(headers))]
    for row in cells:
        line = "  ".join(
            cell.rjust(width) if is_number else cell.ljust(width)
            for cell, width, is_number in zip(row, widths, are_numbers, strict=True)
        )
        echo(line.rstrip())


def set_options(settings: Sequence[str]) -> list[str]:
    """`--set …` for each change of a recipe, quoted for a shell."""
    return [f"--set {shlex.quote(setting)}" for setting in settings]


def next_command(*words: str | Path) -> None:
    """Print the next useful command on stderr, apart from the result.

    Paths among the words are quoted for a shell. `edgevit` becomes the program as the user called it.
    """
    command = " ".join(shlex.quote(str(word)) if isinstance(word, Path) else word for word in words)
    echo(f"next: {command_as_called(command)}", err=True)


def on_target(target: str | None) -> tuple[str, ...]:
    """`--target NAME`, for the next command; nothing for this machine's CPU, which commands take by default."""
    from edgevit.configs.targets import LOCAL_CPU

    return () if target is None or target == LOCAL_CPU else (f"--target {shlex.quote(target)}",)


def command_as_called(text: str) -> str:
    """The text with the program, as the user called it, in its commands."""
    from edgevit.cli import COMMANDS

    return as_called(text, COMMANDS)


def check_new_file(out: Path, force: bool) -> None:
    """As `check_out`; a file that is already there is refused, too, unless it may be overwritten."""
    from edgevit.errors import RecipeError

    check_out(out)
    if out.exists() and not force:
        raise RecipeError("the file is already there", where=out, next="give another --out, or --force to overwrite it")


def write_text_whole(out: Path, text: str) -> None:
    """Write a file in UTF-8, whole or not at all."""
    with whole_or_not_at_all(out) as part:
        part.write_text(text, encoding="utf-8")


def write_page(out: Path, page: str) -> None:
    """Write an HTML page, whole or not at all, and say so on stderr."""
    write_text_whole(out, page)
    echo(f"wrote {out}", err=True)


def tail(text: str, width: int) -> str:
    """The text, without its beginning if it is longer than `width`."""
    return text if len(text) <= width else f"…{text[1 - width :]}"


def fitting(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """The rows of a table, whose first column loses the beginning of long names, so that a row fits the terminal."""
    widths = [max(map(len, column)) for column in zip(headers[1:], *(row[1:] for row in rows), strict=True)]
    room = max(SHORTEST_NAME, WIDTH - sum(widths) - 2 * len(widths))
    return [(tail(row[0], room), *row[1:]) for row in rows]


def terminal_context(**changes: Any) -> Context:
    """The context of a command: progress goes to stderr."""
    from edgevit.context import Context
    from edgevit.progress import progress_for

    return Context(progress=progress_for(sys.stderr), **changes)


def _is_number(cell: str) -> bool:
    return cell in ("", "-") or cell.replace(".", "", 1).replace(",", "").removesuffix("%").isdigit()
