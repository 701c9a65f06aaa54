"""Exceptions for users, named by cause.

    EdgevitError                 the base: printed without a traceback
    ├── RecipeError              a recipe, an option or a name in it is wrong           exit 2
    ├── DataError                images, labels or folders are missing or unreadable    exit 2
    ├── MissingDependency        an optional package is not installed                   exit 2
    ├── TargetError              a device or a runtime cannot do what was asked         exit 2
    │   ├── ConnectionLost       the connection to a device broke                       exit 2
    │   └── ModelRefused         the runtime of a device does not take a model          exit 2
    ├── ArtifactError            a file made earlier is missing, altered or of the wrong kind   exit 2
    │   └── NonFiniteScores      a model gives scores that are not finite numbers       exit 2
    ├── TrainingError            a training run cannot go on (a rank that died)         exit 2
    │   └── Diverged             its loss or a weight is no longer a finite number      exit 2
    └── CheckFailed              a check, budget or comparison was not met              exit 1
        └── ParityError          a file does not agree with what it was made from       exit 1

Any other exception is a bug of edgevit and keeps its traceback.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import ClassVar

from edgevit.terminal import printable_line

# Words of the allocators of torch (on the CPU, on CUDA), oneDNN, cuBLAS and cuDNN, ONNX Runtime and OpenVINO
NO_MEMORY = (
    "can't allocate memory",
    "out of memory",
    "OutOfMemory",
    "could not create a primitive",
    "could not create a memory",
    "ALLOC_FAILED",
    "Failed to allocate memory",
    "bad allocation",
    "bad_alloc",
)


class EdgevitError(Exception):
    """An error that the user can act on.

    Args:
        what: what went wrong, one sentence.
        where: the file, recipe line, stage or image.
        got: the value that was found.
        expected: the values that are accepted.
        next: the command or edit that fixes it.
    """

    exit_code: ClassVar[int] = 2

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        got: object = None,
        expected: object = None,
        next: str | None = None,
    ) -> None:
        self.what, self.where, self.got, self.expected, self.next = what, where, got, expected, next
        super().__init__(what)

    def __str__(self) -> str:
        head = self.what if self.where is None else f"{printable_line(self.where)}: {self.what}"
        details = [
            f"  {name}: {_without_password(printable_line(value))}"
            for name, value in (("got", self.got), ("expected", self.expected), ("next", self.next))
            if value is not None
        ]
        return "\n".join([head, *details])


def _without_password(text: str) -> str:
    """The text with … for the password of an address such as ssh://user:password@host."""
    return re.sub(r"(://[^/@\s:]*):[^/@\s]*@", r"\1:…@", text)


def first_line(error: BaseException) -> str:
    """The first line of an error's message that is not empty, without its full stop; or the type of the error."""
    lines = (line.strip().rstrip(".") for line in str(error).splitlines())
    return next(filter(None, lines), type(error).__name__)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python, a device or a library means that there is no memory left."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in NO_MEMORY)


class RecipeError(EdgevitError):
    """A recipe, an option or a name in it is wrong."""


class DataError(EdgevitError):
    """Images, labels or folders are missing or unreadable."""


class MissingDependency(EdgevitError):
    """An optional package is not installed."""


class TargetError(EdgevitError):
    """A device or a runtime cannot do what was asked."""


class ConnectionLost(TargetError):
    """The connection to a device broke, or cannot be made now. Another try may succeed."""


class ModelRefused(TargetError):
    """The runtime of a target does not take a model."""


class ArtifactError(EdgevitError):
    """A file made earlier is missing, altered or of the wrong kind."""


class NonFiniteScores(ArtifactError):
    """A model gives scores that are not finite numbers."""


class TrainingError(EdgevitError):
    """A training run cannot go on."""


class Diverged(TrainingError):
    """The loss or a weight is no longer a finite number."""


class CheckFailed(EdgevitError):
    """A check, budget or comparison was not met."""

    exit_code = 1


class ParityError(CheckFailed):
    """A file does not agree with what it was made from."""


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """`Did you mean 'x'?` for the known name nearest to `name`; None if no name is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"Did you mean '{near[0]}'?" if near else None


def shortened(value: object, most: int = 100) -> str:
    """`value` as text of at most `most` characters; … stands for the rest."""
    text = str(value)
    return text if len(text) <= most else f"{text[:most]}…"


def listed(names: Sequence[str], shown: int = 5) -> str:
    """`a, b and 3 more`: the first names of a list."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
