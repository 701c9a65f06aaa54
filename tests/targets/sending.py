"""Files that tests send to an agent, and the bytes that go there."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from edgevit.targets.agent_session import AgentSession
from edgevit.targets.uploads import hashes_of, upload


def sent(session: AgentSession, paths: Sequence[Path]) -> dict[Path, str]:
    """The hashes of files, which are there now."""
    hashes = hashes_of(paths)
    upload(session, hashes)
    return hashes


def sent_bytes(session: AgentSession, paths: Sequence[Path]) -> int:
    """The bytes of the files that are sent, so that the agent has them all."""
    chunks: list[bytes] = []
    ask = session.ask

    def counted(do: str, *more: Any, **values: Any) -> Any:
        if do == "put":
            chunks.append(base64.b64decode(values["data"]))
        return ask(do, *more, **values)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(session, "ask", counted)
        upload(session, hashes_of(paths))
    return sum(map(len, chunks))
