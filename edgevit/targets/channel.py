"""A started program as lines of bytes, with bounds on the time and the length of each line."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO

from edgevit.errors import TargetError
from edgevit.targets.agent.processes import Output

KEPT_STDERR = 2**14  # bytes
READ_BLOCK = 2**16
CLOSING_S = 3  # for a program to end once its input has ended
NEVER_ENDED = -1


class Closed(Exception):
    """The program has ended, or has closed its output."""


class Deadline:
    """The end of a wait of so many seconds, which begins now."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def left_s(self) -> float:
        """The seconds left."""
        return max(0.0, self._end - time.monotonic())


class Channel:
    """A program that is written to and read from. Its stderr is read meanwhile, and the end of it is kept."""

    def __init__(self, command: Sequence[str], where: str, environment: Mapping[str, str] | None = None) -> None:
        """Start the program, in a session of its own: Ctrl-C reaches this process alone.

        Args:
            where: the name of the target, for errors.
            environment: more variables.

        Raises:
            OSError: there is no such program.
        """
        self._where = where
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
            bufsize=0,
        )
        self._input, self._output = _stream(self._process.stdin), _stream(self._process.stdout)
        self._errors = Output(self._process.stderr, keeps_end=True, longest=KEPT_STDERR)
        self._buffer = bytearray()
        for stream in (self._input, self._output):
            os.set_blocking(stream.fileno(), False)

    def send(self, content: bytes, deadline: Deadline) -> None:
        """Write all of `content`.

        Raises:
            Closed: the program takes no more.
            TargetError: it did not take everything in time.
        """
        rest = memoryview(content)
        while rest:
            self._wait(self._input, selectors.EVENT_WRITE, deadline)
            try:
                rest = rest[os.write(self._input.fileno(), rest) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                raise Closed from None

    def line(self, deadline: Deadline, longest: int) -> bytes:
        """The next line, without its end.

        Raises:
            Closed: the program has closed its output.
            TargetError: no whole line came in time, or the line is longer than `longest` bytes.
        """
        searched = 0
        while (at := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if searched > longest:
                break
            self._wait(self._output, selectors.EVENT_READ, deadline)
            self._read()
        if at < 0 or at > longest:
            raise TargetError("the answer is too long", where=self._where, expected=f"at most {longest:,} bytes")
        line = bytes(self._buffer[:at])
        del self._buffer[: at + 1]
        return line

    def close(self) -> tuple[int, str]:
        """End the program's input, and the program if it stays. Gives its exit status, and the end of its stderr."""
        for stream in (self._input, self._output):
            with suppress(OSError):
                stream.close()
        for number in (None, signal.SIGTERM, signal.SIGKILL):
            if number is not None:
                with suppress(ProcessLookupError):
                    os.killpg(self._process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(CLOSING_S)
                break
        status = self._process.returncode
        return NEVER_ENDED if status is None else status, self._errors.text()

    def _read(self) -> None:
        try:
            block = os.read(self._output.fileno(), READ_BLOCK)
        except BlockingIOError:
            return
        if not block:
            raise Closed
        self._buffer += block

    def _wait(self, stream: IO[bytes], event: int, deadline: Deadline) -> None:
        if stream.closed:
            raise Closed
        with selectors.DefaultSelector() as selector:
            selector.register(stream, event)
            if not selector.select(deadline.left_s()):
                raise TargetError(
                    "the target does not answer",
                    where=self._where,
                    got=f"nothing for {deadline.seconds:.0f} s",
                    next="see whether it is busy, and run the same command again",
                )


def _stream(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream
