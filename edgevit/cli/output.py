"""How commands print: tables, JSON, and the next command."""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgevit.cli.machine import is_utf8
from edgevit.terminal import printable, printable_line

if TYPE_CHECKING:
    from edgevit.context import Context

PART = ".edgevit-part-"
ABANDONED_S = 3600  # after so long a part belongs to a command that was killed
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


@contextmanager
def whole_or_not_at_all(out: Path) -> Iterator[Path]:
    """Where to write a file or a folder, which becomes `out` in one step.

    Raises:
        ArtifactError: a folder that is not empty has appeared at `out` meanwhile.
        OSError: the disk is full; the error names `out`.
    """
    from edgevit.disks import IS_FULL
    from edgevit.errors import ArtifactError

    out.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(out.parent)
    folder = None
    try:
        folder = Path(tempfile.mkdtemp(prefix=PART, dir=out.parent))
        yield folder / out.name
        _sync(folder)
        (folder / out.name).replace(out)
    except OSError as error:
        if error.errno in IS_FULL:
            raise OSError(error.errno, error.strerror, str(out)) from None
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise ArtifactError("the folder is already there", where=out, next="give another --out") from None
        raise
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def write_text_whole(out: Path, text: str) -> None:
    """Write a file in UTF-8, whole or not at all."""
    with whole_or_not_at_all(out) as part:
        part.write_text(text, encoding="utf-8")


def terminal_context(**changes: Any) -> Context:
    """The context of a command: progress goes to stderr."""
    from edgevit.context import Context
    from edgevit.progress import progress_for

    return Context(progress=progress_for(sys.stderr), **changes)


def _remove_abandoned(folder: Path) -> None:
    """Remove what commands that were killed have left."""
    for left in folder.glob(f"{PART}*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > ABANDONED_S:
                shutil.rmtree(left)


def _sync(folder: Path) -> None:
    """Bring the files below a folder to the disk: some disks say only then that they are full."""
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())


def _is_number(cell: str) -> bool:
    return cell in ("", "-") or cell.replace(".", "", 1).replace(",", "").removesuffix("%").isdigit()
