"""The lines that trtexec prints: information to stdout, warnings and errors to stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import NoReturn

from tests.targets.standin.trtexec.settings import TrtexecSettings


class Failed(Exception):
    """The run ends as FAILED. Its messages are printed already."""


class Log:
    """Prints lines in the form of NVIDIA's samples/common/logging.h."""

    def __init__(self, settings: TrtexecSettings, command: Sequence[str]) -> None:
        self._title = f"TensorRT.trtexec {settings.title} # {' '.join(command)}"

    def banner(self, state: str) -> None:
        print(f"&&&& {state} {self._title}", flush=True)

    def info(self, text: str = "") -> None:
        print(f"{_now()} [I] {text}", flush=True)

    def warning(self, text: str) -> None:
        print(f"{_now()} [W] {text}", file=sys.stderr, flush=True)

    def error(self, text: str) -> None:
        print(f"{_now()} [E] {text}", file=sys.stderr, flush=True)

    def fail(self, *texts: str) -> NoReturn:
        """Print errors, and end the run."""
        for text in texts:
            self.error(text)
        raise Failed


def number(value: float) -> str:
    """A number as C++ streams print it: six digits."""
    return f"{value:.6g}"


def dimensions(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _now() -> str:
    return time.strftime("[%m/%d/%Y-%H:%M:%S]")
