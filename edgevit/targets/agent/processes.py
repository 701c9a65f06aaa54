"""Programs that the agent starts."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from typing import IO, Collection

from edgevit.targets.agent.protocol import LONGEST_TEXT, Json, RequestError

KILL_S = 5
READ_BLOCK = 2**20


class Processes:
    """The processes that the agent has started. Each leads a group of its own, which is stopped as a whole."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._running: list[subprocess.Popen[bytes]] = []
        self._is_over = False

    def run(self, arguments: list[str], timeout_s: float, environment: dict[str, str]) -> Json:
        """Run a program. `status` is None after a timeout; the outputs hold what was printed until then.

        Raises OSError if there is no such program.
        """
        process = self.start(arguments, environment)
        outputs = [Output(process.stdout), Output(process.stderr)]
        status: int | None = None
        try:
            status = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self.stop(process)
        stdout, stderr = (output.text() for output in outputs)
        return {"status": status, "stdout": stdout, "stderr": stderr}

    def start(
        self,
        arguments: list[str],
        environment: dict[str, str],
        folder: str | None = None,
        inherited: Collection[int] = (),
    ) -> subprocess.Popen[bytes]:
        """A started program, for `stop`. Raises OSError if there is no such program."""
        with self._guard:
            if self._is_over:
                raise RequestError("bad_request", "the agent ends")
            process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                cwd=folder,
                pass_fds=inherited,
                start_new_session=True,
            )
            self._running.append(process)
            return process

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        """Kill what is left of a program."""
        kill_group(process.pid)
        with contextlib.suppress(subprocess.TimeoutExpired):  # a program that hangs in a driver cannot be killed
            process.wait(KILL_S)
        with self._guard:
            self._running.remove(process)

    def stop_all(self) -> None:
        """Stop every process, and start no other."""
        with self._guard:
            self._is_over = True
            for process in self._running:
                kill_group(process.pid)


class Output:
    """What a process prints: its beginning, or its end. The rest is read and thrown away."""

    def __init__(self, stream: IO[bytes] | None, keeps_end: bool = False, longest: int = LONGEST_TEXT) -> None:
        assert stream is not None
        self._stream, self._keeps_end, self._longest = stream, keeps_end, longest
        self._kept = b""
        self._thread = threading.Thread(target=self._drain, daemon=True)
        self._thread.start()

    def text(self) -> str:
        """What was printed. A process of another group may hold the stream open: it is not waited for."""
        self._thread.join(1)
        return self._kept.decode("utf-8", "replace")

    def _drain(self) -> None:
        with self._stream:
            while True:
                block = os.read(self._stream.fileno(), READ_BLOCK)
                if not block:
                    return
                kept = self._kept + block
                self._kept = kept[-self._longest :] if self._keeps_end else kept[: self._longest]


def kill_group(leader: int) -> None:
    """Kill a process and what it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
