"""A target that stays connected: when the line drops, it is reached anew."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TypeVar

from edgevit.errors import ConnectionLost, TargetError
from edgevit.targets.agent_session import AgentSession, Refused
from edgevit.targets.named import NamedTarget
from edgevit.targets.reach import reached, this_client
from edgevit.targets.target_python import python_words

RECONNECT_S = 120  # for the target to come back
FIRST_WAIT_S = 1.0  # between two tries; each later wait is twice as long, up to the longest
LONGEST_WAIT_S = 20.0
MOST_DROPS = 5  # of the line, during one call
UNLOCK_S = 5  # on Ctrl-C, the line may be dead
LOCK_WAIT_S = 3600  # for other users of the target

Say = Callable[[str], None]
R = TypeVar("R")


class Connection:
    """A connected target. Use `connected`.

    Attributes:
        target: its name, and how it is reached.
        say: tells the user a line.
        waiting: the names of jobs that have ended, and whose files may still be fetched. What is sent meanwhile does
            not make room by them.
    """

    def __init__(self, target: NamedTarget, say: Say) -> None:
        self.target = target
        self.say = say
        self.waiting: set[str] = set()
        self._stack = ExitStack()
        self._session: AgentSession
        self._is_locked = self._has_dropped = False
        self._client = secrets.token_hex(16)

    @property
    def python(self) -> tuple[str, ...]:
        """The command that starts Python there, word by word, for the arguments of a job."""
        return python_words(self.target.machine.python)

    def call(self, function: Callable[[AgentSession], R]) -> R:
        """The value of a function of the session. If the line drops meanwhile, it is called again after a reconnect.

        So the function has to ask for what may be done twice.

        Raises:
            ConnectionLost: the target did not come back.
            TargetError: what the function raises.
        """
        for _ in range(MOST_DROPS):
            try:
                return self._called(function)
            except ConnectionLost:
                self._reconnect()
        return self._called(function)

    def call_once(self, function: Callable[[AgentSession], R]) -> R:
        """As `call`, without a reconnect."""
        return function(self._session)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the target's lock in the block. A block within such a block does nothing more.

        If the line drops, the earlier agent holds the lock until its job has ended; then this connection's agent does.

        Raises:
            TargetError: another user held the lock all the time.
        """
        if self._is_locked:
            yield
            return
        self.call(self._lock)
        self._is_locked = True
        try:
            yield
        finally:
            self._is_locked = False
            with suppress(TargetError):  # the end of the agent frees it
                self._session.unlock(UNLOCK_S)

    def reach(self) -> None:
        """Connect. Raises as `reached`."""
        self._session = self._stack.enter_context(reached(self.target))
        if self._is_locked and not self._session.has_lock(this_client(), self._client):
            self._lock(self._session)

    def close(self) -> None:
        """End the connection."""
        self._stack.close()

    def _called(self, function: Callable[[AgentSession], R]) -> R:
        """The value of the function. If it needs the lock that an earlier agent has left, that agent is waited for."""
        try:
            return function(self._session)
        except Refused as refused:
            if refused.failure.kind != "lock_left":
                raise
        self._lock(self._session)
        return function(self._session)

    def _lock(self, session: AgentSession) -> None:
        session.lock(this_client(), LOCK_WAIT_S, self.say, client=self._client)

    def _reconnect(self) -> None:
        if not self._has_dropped:
            self.say(_broken(self.target))
        self._has_dropped = True
        end, wait_s = time.monotonic() + RECONNECT_S, FIRST_WAIT_S
        while True:
            self.close()
            try:
                self.reach()
                return
            except ConnectionLost as error:
                if time.monotonic() + wait_s > end:
                    raise _gone(self.target, error) from None
            time.sleep(wait_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)


@contextmanager
def connected(target: NamedTarget, say: Say) -> Iterator[Connection]:
    """A target that is connected until the end of the block.

    Args:
        say: is told when another user is waited for, and once if the line drops.

    Raises:
        TargetError: the target cannot be reached, or has no fitting Python. The first connection is tried once.
        MissingDependency: there is no `ssh` on this machine.
    """
    connection = Connection(target, say)
    try:
        connection.reach()
        yield connection
    finally:
        connection.close()


def _broken(target: NamedTarget) -> str:
    if target.machine.is_here:
        return f"the agent of {target.name} has ended; starting it again"
    return f"the line to {target.name} dropped; connecting again"


def _gone(target: NamedTarget, error: ConnectionLost) -> ConnectionLost:
    got = error.what if error.got is None else f"{error.what}: {error.got}"
    if target.machine.is_here:
        what, look = f"the agent ended, and could not be started again within {RECONNECT_S} s", "see why"
    else:
        what = f"the line dropped, and the target did not come back within {RECONNECT_S} s"
        look = "see whether it is on"
    return ConnectionLost(what, where=target.name, got=got, next=f"{look}, and run the same command again")
