"""The program as the user called it, so that a printed command can be pasted."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Collection
from pathlib import Path

NAME = "edgevit"


def program() -> str:
    """`edgevit`, the path by which it was called, or `python -m edgevit`; quoted for a shell."""
    called = Path(sys.argv[0])
    if (called.parent.name, called.name) == (NAME, "__main__.py"):
        return f"{shlex.quote(sys.orig_argv[0])} -m {NAME}"
    is_path = called.name == NAME and os.sep in sys.argv[0]
    return shlex.quote(sys.argv[0]) if is_path and not _is_on_path(called) else NAME


def as_called(text: str, commands: Collection[str]) -> str:
    """The text with the program, as it was called, in place of `edgevit` before the name of a command."""
    names = "|".join(map(re.escape, commands))
    return re.sub(rf"(?<![\w./-]){NAME} (?=(?:{names})(?![\w-]))", lambda _: f"{program()} ", text)


def _is_on_path(called: Path) -> bool:
    """Whether the shell finds this program by its name."""
    on_path = shutil.which(NAME)
    return on_path is not None and called.exists() and os.path.samefile(on_path, called)
