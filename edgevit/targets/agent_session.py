"""A conversation with an agent: start it, ask it, and check every answer, which may hold anything."""

from __future__ import annotations

import json
import re
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from typing import Any, TypeVar

from pydantic import Field, ValidationError

from edgevit.artifacts import Frozen, Json
from edgevit.errors import ConnectionLost, EdgevitError, TargetError, shortened
from edgevit.frozen import first_problem
from edgevit.targets.agent import protocol
from edgevit.targets.channel import Channel, Closed, Deadline

OLDEST_PYTHON = (3, 8)
# The files of the agent, each after those that it imports.
AGENT_FILES = (
    "protocol",
    "processes",
    "probe",
    "machine_lock",
    "folders",
    "store",
    "carried",
    "packages",
    "job_folder",
    "jobs",
    "cache",
    "agent",
)


def _program() -> bytes:
    """The agent as one program: it makes a module of each file, and calls `main` of the last."""
    package = "edgevit.targets.agent"
    lines = ["import sys, types"]
    for name in AGENT_FILES:
        text = (resources.files(package) / f"{name}.py").read_text(encoding="utf-8")
        module = f"{package}.{name}"
        lines.append(f"module = sys.modules[{module!r}] = types.ModuleType({module!r})")
        lines.append(f"exec(compile({text!r}, {module!r}, 'exec'), module.__dict__)")
    return "\n".join([*lines, "module.main()", ""]).encode("utf-8")


SOURCE = _program()
# It runs on any Python from 2.7 on, to say which one it is. It has no quotation mark, backslash, dollar sign or
# exclamation mark that a login shell could take for its own inside single quotes.
BOOTSTRAP = (
    "import sys; sys.path[:] = [p for p in sys.path if p];"
    ' print("edgevit-python %d.%d.%d" % tuple(sys.version_info[:3]));'
    " sys.stdout.flush(); sys.version_info < (3, 8) and sys.exit(3); sent = sys.stdin.buffer;"
    ' program = __import__("zlib").decompress(sent.read(int(sent.readline())));'
    ' exec(compile(program, "edgevit-agent", "exec"), dict(__name__="__main__"))'
)
_GREETING = re.compile(rb"edgevit-python (\d{1,3})\.(\d{1,3})\.(\d{1,3})")

START_S = 30
ANSWER_S = 60
OWN_LOCK_S = 5  # for an earlier agent of this client to end and free the lock, before the user is told
LONGEST_ANSWER = 2**24  # bytes of a line; a probe of much text that JSON escapes comes near
LONGEST_NOISE = 2**14  # bytes of a line that a login shell prints before the agent starts
MOST_NOISE = 200  # such lines
NEXT_NOISE = "let the shell's start files print nothing when there is no terminal"

Explain = Callable[[int, str], EdgevitError]
R = TypeVar("R", bound=Frozen)


class Hello(Frozen):
    """The first answer of an agent."""

    version: int
    python: str = Field(max_length=protocol.LONGEST_NAME)
    work_folder: str = Field(pattern="^/", max_length=4 * protocol.LONGEST_NAME)


class _Holder(Frozen):
    by: str = Field(max_length=protocol.LONGEST_NAME)
    for_s: float = Field(ge=0, allow_inf_nan=False)
    is_own: bool


class _Locked(Frozen):
    held: bool
    holder: _Holder | None


class _Failure(Frozen):
    kind: str = Field(max_length=100)
    what: str = Field(max_length=protocol.LONGEST_NAME)
    have: int | None = Field(None, ge=0, le=protocol.LARGEST_FILE)
    free_bytes: int | None = Field(None, ge=0)


class Refused(TargetError):
    """The agent refused a request. `failure` says why, for the caller."""

    def __init__(self, failure: _Failure, where: str) -> None:
        self.failure = failure
        if failure.kind == "disk_full":
            free = None if failure.free_bytes is None else f"{failure.free_bytes / 2**20:,.0f} MiB free"
            more = {"got": free, "next": "free some space there, or give the target another work_folder"}
            super().__init__("the target's disk is full", where=where, **more)
        else:
            super().__init__("the target refused", where=where, got=failure.what)


class AgentSession:
    """A started agent. Use `agent_session`."""

    def __init__(self, channel: Channel, where: str, explain: Explain) -> None:
        self.where = where
        self.hello: Hello
        self._channel, self._explain, self._number = channel, explain, 0

    def ask(self, do: str, answer: type[R], timeout_s: float = ANSWER_S, **values: Any) -> R:
        """The agent's checked answer to a request.

        Raises:
            Refused: the agent says that it cannot be done.
            ConnectionLost: the connection broke, or the agent has ended.
            TargetError: no answer came in time, or the answer is none.
        """
        result = self.ask_for_json(do, timeout_s, **values)
        try:
            return answer.model_validate(result)
        except ValidationError as error:
            raise self._no_answer(first_problem(error)) from None

    def ask_for_json(self, do: str, timeout_s: float = ANSWER_S, **values: Any) -> Json:
        """The agent's answer as JSON, whose values the caller has to check. Raises as `ask`."""
        self._number += 1
        request = {"id": self._number, "do": do, **values}
        try:
            self._channel.send(json.dumps(request).encode("ascii") + b"\n", Deadline(timeout_s))
            return self._result(Deadline(timeout_s))
        except Closed:
            error = self._explain(*self._channel.close())
            raise ConnectionLost(error.what, where=error.where, got=error.got, next=error.next) from None

    def lock(
        self, by: str, wait_s: float, say: Callable[[str], None] | None = None, root: str = "", client: str = ""
    ) -> None:
        """Take the machine's lock, so that no other client measures there. `unlock` or the agent's end frees it.

        Args:
            by: who holds it, for the others.
            wait_s: how long to wait for the lock.
            say: is told once who is waited for.
            root: the folder of a stand-in for a machine.
            client: something secret by which this client knows itself after the line dropped.

        Raises:
            TargetError: another client held it all the time.
        """
        began, is_told = time.monotonic(), False
        while not (answer := self._try_lock(by, root, client)).held:
            waited_s, is_own = time.monotonic() - began, bool(answer.holder and answer.holder.is_own)
            if waited_s >= wait_s:
                got, next_step = _who(answer.holder), "run the same command again later"
                raise TargetError("another user measures on the target", where=self.where, got=got, next=next_step)
            if say and not is_told and not (is_own and waited_s < OWN_LOCK_S):
                say(f"waiting for {self.where}: {_who(answer.holder)}")
                is_told = True
            time.sleep(min(1.0, max(0.05, wait_s - waited_s)))

    def has_lock(self, by: str, client: str) -> bool:
        """Whether the machine's lock is this client's: taken now, or held by its earlier agent until a job ends there.

        In the second case, the agent refuses to start another job (`lock_left`).
        """
        answer = self._try_lock(by, "", client)
        return answer.held or bool(answer.holder and answer.holder.is_own)

    def unlock(self, timeout_s: float = ANSWER_S) -> None:
        """Free the machine's lock."""
        self.ask("unlock", Frozen, timeout_s)

    def _try_lock(self, by: str, root: str, client: str) -> _Locked:
        values: Json = {"by": by, "client": client}
        return self.ask("lock", _Locked, **({**values, "root": root} if root else values))

    def start(self, python: str, work_folder: str, orphan_s: int | None = None) -> None:
        """Wait for the Python there, and send it the agent (see `agent_session`)."""
        try:
            version = self._python_version(python)
            if version < OLDEST_PYTHON:
                raise TargetError(
                    "the target's Python is too old",
                    where=self.where,
                    got=f"{python} is Python {'.'.join(map(str, version))}",
                    expected=f"Python {'.'.join(map(str, OLDEST_PYTHON))} or later",
                    next="name another one with --python COMMAND (devices add), or python: in targets.yaml",
                )
            program = zlib.compress(SOURCE)
            self._channel.send(b"%d\n%b" % (len(program), program), Deadline(START_S))
        except Closed:
            raise self._explain(*self._channel.close()) from None
        orphan: Json = {} if orphan_s is None else {"orphan_s": orphan_s}
        self.hello = self.ask("hello", Hello, START_S, work_folder=work_folder, **orphan)
        if self.hello.version != protocol.VERSION:
            raise self._no_answer(f"protocol {self.hello.version}")

    def _python_version(self, python: str) -> tuple[int, ...]:
        """The version that the bootstrap prints, after what a login shell may print."""
        deadline = Deadline(START_S)
        lines: list[str] = []
        try:
            while len(lines) < MOST_NOISE:
                line = self._channel.line(deadline, LONGEST_NOISE)
                if greeting := _GREETING.fullmatch(line.rstrip(b"\r")):
                    return tuple(map(int, greeting.groups()))
                lines.append(line.decode("utf-8", "replace"))
        except Closed:
            status, stderr = self._channel.close()
            raise self._explain(status, "\n".join([*lines, stderr])) from None
        got = f"{MOST_NOISE} other lines, beginning with {shortened(lines[0])}"
        raise TargetError(f"{python} is no Python, or the shell prints too much", where=self.where, got=got)

    def _result(self, deadline: Deadline) -> Json:
        """The result of the last request. Answers to earlier requests that were broken off are passed over."""
        for _ in range(self._number):
            line = self._channel.line(deadline, LONGEST_ANSWER)
            answer = self._answer(line)
            if answer["id"] == self._number:
                break
        else:
            raise self._no_answer("answers to earlier requests")
        if isinstance(result := answer.get("result"), dict):
            return result
        try:
            failure = _Failure.model_validate(answer.get("error"))
        except ValidationError:
            raise self._no_answer(line.decode("utf-8", "replace")) from None
        raise Refused(failure, self.where)

    def _answer(self, line: bytes) -> Json:
        """The answer to a request of this session."""
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            answer = None
        number = answer.get("id") if isinstance(answer, dict) else None
        if not isinstance(number, int) or not 0 < number <= self._number:
            raise self._no_answer(line.decode("utf-8", "replace"))
        return dict(answer)

    def _no_answer(self, got: str) -> TargetError:
        what = "the answer is not one of edgevit's agent"
        return TargetError(what, where=self.where, got=shortened(got), next=NEXT_NOISE)


def _who(holder: _Holder | None) -> str:
    """Who holds the lock, for people."""
    if holder is None:
        return "an unknown user"
    who = "the earlier connection of this command" if holder.is_own else holder.by
    return f"{who}, for {holder.for_s:.0f} s"


@contextmanager
def agent_session(
    channel: Channel, where: str, python: str, work_folder: str, explain: Explain, orphan_s: int | None = None
) -> Iterator[AgentSession]:
    """An agent that runs until the end of the block.

    Args:
        channel: a program that runs `python` with `BOOTSTRAP`.
        where: the name of the target, for errors.
        work_folder: where the agent keeps files.
        explain: the error for a program that has ended, from its exit status and stderr.
        orphan_s: how long its jobs go on without this client, in seconds; None for the agent's own `ORPHAN_S`.
    """
    session = AgentSession(channel, where, explain)
    try:
        session.start(python, work_folder, orphan_s)
        yield session
    finally:
        channel.close()
