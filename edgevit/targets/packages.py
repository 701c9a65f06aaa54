"""Python packages for a target: wheels go there and are unpacked into a folder. Nothing is installed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from edgevit.artifacts import Frozen
from edgevit.errors import TargetError
from edgevit.targets.agent import protocol
from edgevit.targets.agent_session import AgentSession
from edgevit.targets.connection import Connection
from edgevit.targets.uploads import hashes_of, with_files

UNPACK_S = 900  # on a memory card


class _Unpacked(Frozen):
    folder: str = Field(max_length=5 * protocol.LONGEST_NAME)


def unpack(connection: Connection, wheels: Sequence[Path]) -> str:
    """The folder on a target that holds the packages of wheels, for PYTHONPATH. It is made once for equal wheels.

    Meanwhile the target's lock is held: it would disturb the timings of others.

    Raises:
        TargetError: the disk there is full, a file is no wheel, or another user held the lock all the time.
    """
    hashes = hashes_of(wheels)
    names = [hashes[wheel] for wheel in wheels]

    def unpacked(session: AgentSession) -> str:
        answer = with_files(
            session,
            hashes,
            lambda: session.ask("unpack", _Unpacked, UNPACK_S, files=names),
            keep=connection.waiting,
        )
        digest = hashlib.sha256("\n".join(names).encode("ascii")).hexdigest()
        expected = f"{session.hello.work_folder.rstrip('/')}/packages/{digest}"
        if answer.folder != expected:
            what = "the target unpacked the packages elsewhere"
            raise TargetError(what, where=session.where, got=answer.folder, expected=expected)
        return answer.folder

    with connection.locked():
        return connection.call(unpacked)
