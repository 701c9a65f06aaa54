"""How commands print: tables, JSON, and the next command."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgevit.cli.machine import is_utf8
from edgevit.disks import whole_or_not_at_all
from edgevit.terminal import printable, printable_line

if TYPE_CHECKING:
    from edgevit.context import Context

JsonFlag = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]


def echo(text: str = "", err: bool = False, nl: bool = True) -> None:
    """Print text, on stderr if `err`. All that commands say goes through here: no name in it steers the terminal."""
    typer.echo(printable(text), err=err, nl=nl)


def say_note(note: str) -> None:
    """Print a note on stderr, so that it never mixes with an answer."""
    echo(note, err=True)


def print_json(value: Any) -> None:
    """Readable text stays where the terminal can show it; what a terminal would obey is escaped as JSON has it."""
    echo(json.dumps(value, indent=2, ensure_ascii=not is_utf8(sys.stdout.encoding), default=str))


def print_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Columns aligned by their widest cell; numbers to the right."""
    cells = [list(headers), *([printable_line(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    numeric = [all(_is_number(row[i]) for row in cells[1:]) for i in range(len(headers))]
    for row in cells:
        line = "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        )
        echo(line.rstrip())


def set_options(settings: Sequence[str]) -> list[str]:
    """`--set …` for each change of a recipe, to be pasted into a shell."""
    return [f"--set {shlex.quote(one)}" for one in settings]


def next_command(*words: str | Path) -> None:
    """The command that a user would want now; on stderr, so that it never mixes with an answer.

    Paths among the words are quoted as a shell wants them; the rest stands as it is.
    """
    command = " ".join(shlex.quote(str(word)) if isinstance(word, Path) else word for word in words)
    echo(f"next: {command}", err=True)


def check_out(out: Path, *inputs: Path | None, option: str = "--out") -> None:
    """Refuse, before any work, a result that could not be written, or would replace what it is made from."""
    from edgevit.errors import RecipeError

    resolved = out.resolve()
    for given in filter(None, inputs):
        if given.resolve() in (resolved, *resolved.parents):
            raise RecipeError("this would write over what it is made from", where=out, next=f"give another {option}")
    if out.is_dir():
        raise RecipeError("this is a folder", where=out, expected="a file", next=f"name a file in it with {option}")
    above = next(folder for folder in resolved.parents if folder.exists())
    if not above.is_dir():
        raise RecipeError("there is a file where a folder would have to be", where=out, got=above)
    if not os.access(above, os.W_OK):
        raise RecipeError("nothing may be written there", where=out, got=f"no right to write in {above}")


def write_text_whole(out: Path, text: str) -> None:
    """Write a file in UTF-8, whole or not at all."""
    with whole_or_not_at_all(out) as part:
        part.write_text(text, encoding="utf-8")


def terminal_context(**changes: Any) -> Context:
    """The context of a command: progress goes to stderr."""
    from edgevit.context import Context
    from edgevit.progress import progress_for

    return Context(progress=progress_for(sys.stderr), **changes)


def _is_number(cell: str) -> bool:
    return cell in ("", "-") or cell.replace(".", "", 1).replace(",", "").removesuffix("%").isdigit()
