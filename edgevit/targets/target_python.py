"""The Python of a target: the words of its command, and the errors for one that is not there or has ended."""

from __future__ import annotations

import shlex

from edgevit.configs.targets import MachineTarget
from edgevit.errors import TargetError, shortened

LONGEST_LINE = 200


def python_words(python: str) -> tuple[str, ...]:
    """The words of a command that starts Python there. ~/ at the beginning of a word is the home folder there.

    A relative path of the program begins in the home folder too, wherever the program is started.
    """
    program, *rest = shlex.split(python)
    is_relative = "/" in program and not program.startswith(("/", "~/"))
    return f"~/{program}" if is_relative else program, *rest


def no_python(name: str, target: MachineTarget, got: str) -> TargetError:
    """The error for a machine where the command of its Python starts nothing."""
    return TargetError(
        "there is no Python at this command",
        where=name,
        got=f"{target.python}: {got}",
        next="install Python 3.8 or later there, or name its command with --python (python: in targets.yaml)",
    )


def python_has_ended(name: str, status: int, stderr: str, by_hand: str) -> TargetError:
    """The error for a Python that has ended.

    Args:
        by_hand: the command that starts it, for a user who wants to see what it says.
    """
    got = last_line(stderr) or f"exit status {status}"
    return TargetError("the target's Python has ended", where=name, got=got, next=f"try {by_hand}")


def last_line(text: str) -> str:
    """The last line of a text that is not empty, shortened."""
    return shortened(next((line.strip() for line in reversed(text.splitlines()) if line.strip()), ""), LONGEST_LINE)
