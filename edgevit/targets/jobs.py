"""Jobs: programs that run on a target in a folder of their own, and the files that they write.

A job has a name, which is a hash. So it runs once, also if the line drops: it goes on there, and the next connection
waits for it and fetches its files.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Annotated, Literal

from pydantic import Field

from edgevit.artifacts import Frozen, Json
from edgevit.disks import whole_or_not_at_all
from edgevit.errors import TargetError
from edgevit.targets.agent import protocol
from edgevit.targets.agent_session import ANSWER_S, AgentSession
from edgevit.targets.connection import Connection
from edgevit.targets.uploads import CHUNK_S, Hashes, hashes_of, with_files

STARTS = 2  # of a job that is lost there
STOP_S = 15
LATE_S = 120  # for a job to end after its time limit
_Text = Annotated[str, Field(max_length=protocol.LONGEST_TEXT)]
_HASH = "^[0-9a-f]{64}$"


@dataclass(frozen=True)
class Job:
    """A program to run on a target.

    Attributes:
        files: its input files, by their names in the folder that the program runs in.
        arguments: the program and its arguments. ~/ at the beginning of one is the home folder there.
        environment: more variables.
        timeout_s: the time limit.
        is_repeatable: whether an equal job gives equal files, so that the files of an earlier one may be taken. It is
            true of inference, and false of timing.
        outputs: the files to fetch, by name, each with the most bytes that it may have. What else it writes stays
            there, and a file that it does not write is left out.
        carries: files that stay on the target from one job to the next, such as a cache: the SHA-256 that names each
            there, by its name in the program's folder. A job works on a copy, which is kept if the job succeeds. A copy
            that it has removed is not carried any more.
    """

    files: Mapping[str, Path]
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    timeout_s: float
    is_repeatable: bool
    outputs: Mapping[str, int] = field(default_factory=dict)
    carries: Mapping[str, str] = field(default_factory=dict)


class CarriedFile(Frozen):
    """The SHA-256 of a carried file before and after a job; None is no file. A job that fails changes nothing."""

    before: str | None = Field(pattern=_HASH)
    after: str | None = Field(pattern=_HASH)


@dataclass(frozen=True)
class Finished:
    """A job that has ended.

    Attributes:
        status: its exit status, negative for a signal; None if its time was over.
        stdout: the end of it.
        stderr: the end of it.
        seconds: how long it ran.
        files: those that were fetched, by name.
        carried: by the name in the program's folder.
    """

    status: int | None
    timed_out: bool
    stdout: str
    stderr: str
    seconds: float
    files: dict[str, Path]
    carried: Mapping[str, CarriedFile] = field(default_factory=dict)


class _Started(Frozen):
    is_new: bool


class _Output(Frozen):
    name: str = Field(pattern=f"^{protocol.NAME}$")
    bytes: int = Field(ge=0, le=protocol.LARGEST_FILE)
    sha256: str = Field(pattern=_HASH)


class _State(Frozen):
    state: Literal["unknown", "running", "done"]
    status: int | None = Field(ge=-(2**31), lt=2**31)
    timed_out: bool
    stopped: bool
    seconds: float = Field(ge=0, allow_inf_nan=False)
    stdout: _Text
    stderr: _Text
    outputs: list[_Output] = Field(max_length=protocol.MOST_OUTPUTS)
    carried: dict[str, CarriedFile] = Field(max_length=protocol.MOST_CARRIED)

    @property
    def has_failed(self) -> bool:
        return self.state == "done" and (self.timed_out or self.status != 0)


class _Chunk(Frozen):
    data: str = Field(max_length=2 * protocol.LARGEST_CHUNK)


def run_job(connection: Connection, job: Job, out: Path) -> Finished:
    """Run a program on a target, and fetch the files `job.outputs` into folder `out`.

    If the line drops, the job goes on, and the next connection fetches the result. On any error and on Ctrl-C, the job
    is stopped there.

    Raises:
        TargetError: the disk there is full, the program is not there, the target lost the job, or its answers are
            none. A program that fails is no error: see `Finished.status`.
        ConnectionLost: the line dropped, and the target did not come back. The job may still run there: an equal
            repeatable job takes its result.
    """
    with ended_job(connection, job, out) as ended:
        return ended.finished


@dataclass(frozen=True)
class EndedJob:
    """A job that has ended, and whose folder is still on the target. Use `ended_job`."""

    finished: Finished
    fetch: Callable[[Mapping[str, int], Path], dict[str, Path]]
    """Fetch more files, by name with the most bytes of each, into a folder."""


@contextmanager
def ended_job(connection: Connection, job: Job, out: Path) -> Iterator[EndedJob]:
    """As `run_job`. In the block, more files of the job can be fetched."""
    running = _RunningJob(connection, job)
    try:
        state = running.ended()
        connection.waiting.add(running.name)
        files = running.fetched(state, job.outputs, out)
        finished = Finished(
            state.status, state.timed_out, state.stdout, state.stderr, state.seconds, files, state.carried
        )
        yield EndedJob(finished, partial(running.fetched, state))
    except BaseException:
        running.stop()
        raise
    finally:
        connection.waiting.discard(running.name)
    if state.has_failed or not job.is_repeatable:
        running.forget()


class _RunningJob:
    """A job by its name, over a connection that may drop."""

    def __init__(self, connection: Connection, job: Job) -> None:
        self._connection, self._job, self._where = connection, job, connection.target.name
        self._hashes = hashes_of(job.files.values())
        self.name = _name(job, self._hashes)

    def ended(self) -> _State:
        """The end of the job, which is started unless it is there.

        The failure of an earlier equal job does not count, and neither does a job that was stopped: by its agent, which
        ended, or by another client.
        """
        for _ in range(STARTS):
            is_new = self._start()
            state = self._end()
            is_old_failure = state.has_failed and not is_new and self._job.is_repeatable
            if state.stopped or is_old_failure:
                self.forget()
            elif state.state == "done":
                return state
        raise TargetError(
            "the target lost the job",
            where=self._where,
            got=f"no result after {STARTS} starts",
            next="see whether it restarts under load, or its memory or disk is full, and run the same command again",
        )

    def fetched(self, state: _State, wanted: Mapping[str, int], out: Path) -> dict[str, Path]:
        """The wanted files of the job, in folder `out`.

        Args:
            wanted: the most bytes of each file, by name.
        """
        outputs = {output.name: output for output in state.outputs if output.name in wanted}
        for name, output in outputs.items():
            if output.bytes > (most := wanted[name]):
                got, expected = f"{name} of {output.bytes:,} bytes", f"at most {most:,} bytes"
                raise TargetError("the file of the job is too large", where=self._where, got=got, expected=expected)
        out.mkdir(parents=True, exist_ok=True)
        total = sum(output.bytes for output in outputs.values())
        if total > (free := shutil.disk_usage(out).free):
            raise OSError(errno.ENOSPC, f"No space left on device: {total:,} bytes come, {free:,} are free", str(out))
        return {name: self._fetch(output, out / name) for name, output in outputs.items()}

    def stop(self) -> None:
        """Stop the job, if the target can be asked. Otherwise its agent ends it after a while."""
        try:
            self._connection.call_once(lambda session: session.ask("stop", Frozen, STOP_S, job=self.name))
            self._connection.call_once(lambda session: session.ask("forget", Frozen, STOP_S, job=self.name))
        except TargetError:
            self._connection.say(f"{self._where} could not be told to stop: what runs there ends by itself")

    def forget(self) -> None:
        """Remove the job's folder there."""
        self._connection.call(lambda session: session.ask("forget", Frozen, job=self.name))

    def _start(self) -> bool:
        """Start the job, unless it is there. Tells whether it is new."""
        job = self._job
        files = {name: self._hashes[path] for name, path in job.files.items()}

        def start(session: AgentSession) -> _Started:
            values: Json = {
                "carries": dict(job.carries),
                "arguments": list(job.arguments),
                "environment": dict(job.environment),
            }
            return with_files(
                session,
                self._hashes,
                lambda: session.ask("start", _Started, job=self.name, files=files, limit_s=job.timeout_s, **values),
                keep={*protocol.packages_of(job.environment), *self._connection.waiting},
            )

        return self._connection.call(start).is_new

    def _end(self) -> _State:
        """The state of the job when it does not run any more."""
        wait_s = protocol.LONGEST_WAIT_S
        end = time.monotonic() + self._job.timeout_s + LATE_S
        while time.monotonic() < end:
            state = self._connection.call(
                lambda session: session.ask("job", _State, wait_s + ANSWER_S, job=self.name, wait_s=wait_s)
            )
            if state.state != "running":
                return state
        raise TargetError(
            "the job does not end on the target",
            where=self._where,
            got=f"it runs {LATE_S} s after its time limit of {self._job.timeout_s:.0f} s",
            next="restart the target: a program that hangs in a driver cannot be stopped",
        )

    def _fetch(self, output: _Output, path: Path) -> Path:
        """A file of the job. After a drop of the line, it goes on where it stopped."""
        digest = hashlib.sha256()
        with whole_or_not_at_all(path) as part:
            with part.open("wb") as file:
                while file.tell() < output.bytes:
                    chunk = self._chunk(output, file)
                    digest.update(chunk)
                    file.write(chunk)
            if digest.hexdigest() != output.sha256:
                raise TargetError("the file is not what its hash says", where=self._where, got=output.name)
        return path

    def _chunk(self, output: _Output, file: IO[bytes]) -> bytes:
        offset = file.tell()
        answer = self._connection.call(
            lambda session: session.ask("get", _Chunk, CHUNK_S, job=self.name, name=output.name, offset=offset)
        )
        try:
            chunk = base64.b64decode(answer.data, validate=True)
        except ValueError:
            chunk = b""
        if not 0 < len(chunk) <= output.bytes - offset:
            got = f"{output.name}: {len(chunk):,} bytes after {offset:,} of {output.bytes:,}"
            raise TargetError("the download does not go on", where=self._where, got=got)
        return chunk


def _name(job: Job, hashes: Hashes) -> str:
    """The name of a job: its content, with something random in it unless an equal job's result may be taken."""
    content = {
        "files": {name: hashes[path] for name, path in job.files.items()},
        "carries": dict(job.carries),
        "arguments": job.arguments,
        "environment": dict(job.environment),
        "timeout_s": job.timeout_s,
        "nonce": "" if job.is_repeatable else secrets.token_hex(16),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode("ascii")).hexdigest()
