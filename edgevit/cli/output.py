"""How commands print: tables, JSON, and the next command."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from edgevit.context import Context

JsonFlag = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def print_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Columns aligned by their widest cell; numbers to the right."""
    cells = [list(headers), *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    numeric = [all(_is_number(row[i]) for row in cells[1:]) for i in range(len(headers))]
    for row in cells:
        line = "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        )
        typer.echo(line.rstrip())


def set_options(settings: Sequence[str]) -> str:
    """ " --set …" for each change of a recipe, to be pasted into a shell."""
    return "".join(f" --set {shlex.quote(one)}" for one in settings)


def next_command(command: str) -> None:
    """The command that a user would want now; on stderr, so that it never mixes with an answer."""
    typer.echo(f"next: {command}", err=True)


def terminal_context(**changes: Any) -> Context:
    """The context of a command: progress goes to stderr."""
    from edgevit.context import Context
    from edgevit.progress import progress_for

    return Context(progress=progress_for(sys.stderr), **changes)


def _is_number(cell: str) -> bool:
    return cell in ("", "-") or cell.replace(".", "", 1).replace(",", "").removesuffix("%").isdigit()
