"""Clients take turns; and one whose line dropped takes over the job and the lock of its earlier agent."""

from __future__ import annotations

import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from edgevit.errors import TargetError
from edgevit.targets import agent_session as agent_sessions
from edgevit.targets import connection as connections
from edgevit.targets.agent_session import BOOTSTRAP, AgentSession, Refused, agent_session
from edgevit.targets.channel import Channel
from edgevit.targets.connection import connected
from edgevit.targets.named import NamedTarget
from edgevit.targets.packages import unpack
from edgevit.targets.reach import reached
from tests.targets.ssh_host import number_in

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux, as the targets of the agent do")


@pytest.fixture(autouse=True)
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock of the test's own."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("EDGEVIT_ROOT", str(tmp_path))


def session(folder: Path) -> Any:
    channel = Channel((sys.executable, "-c", BOOTSTRAP), "here")
    return agent_session(channel, "here", "python3", str(folder / "work"), lambda *_: TargetError("ended"))


def start(agent: AgentSession, script: str, name: str) -> Any:
    return agent.ask_for_json("start", job=name * 64, arguments=["sh", "-c", script], limit_s=60)


def state(agent: AgentSession, name: str, wait_s: int = 0) -> str:
    return str(agent.ask_for_json("job", job=name * 64, wait_s=wait_s)["state"])


def test_an_agent_takes_over_the_job_of_an_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may run for longer than an agent without a client waits, since somebody asks for it."""
    source = agent_sessions.SOURCE.replace(b"ORPHAN_S = 600", b"ORPHAN_S = 0.6")
    assert source != agent_sessions.SOURCE
    monkeypatch.setattr(agent_sessions, "SOURCE", source)
    said: list[str] = []
    with session(tmp_path) as first, session(tmp_path) as second, session(tmp_path) as other:
        first.lock("ada", 0, client="key")
        start(first, f"echo $$ > {tmp_path}/pid; sleep 2.5", "a")
        number_in(tmp_path / "pid")
        first._channel._input.close()
        assert second.has_lock("ada", "key")
        assert not other.has_lock("ada", "another key")
        assert start(second, "true", "a") == {"is_new": False}
        with pytest.raises(Refused) as caught:
            start(second, "true", "b")
        assert caught.value.failure.kind == "lock_left"
        while state(second, "a") == "running":
            time.sleep(0.2)
        answer = second.ask_for_json("job", job="a" * 64, wait_s=0)
        assert (answer["state"], answer["status"]) == ("done", 0)
        second.lock("ada", 10, said.append, client="key")
        assert start(second, "true", "b") == {"is_new": True}
        assert not other.has_lock("ada", "another key")
    assert said == []


def test_packages_are_unpacked_while_nobody_else_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "LOCK_WAIT_S", 0)
    monkeypatch.setenv("HOME", str(tmp_path))
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as wheel:
        wheel.writestr("a.py", "")
    with connected(NamedTarget("local-cpu"), pytest.fail) as connection, reached(NamedTarget("local-cpu")) as other:
        other.lock("bo@desk", 0)
        with pytest.raises(TargetError, match="another user measures"):
            unpack(connection, [tmp_path / "a.whl"])
        other.unlock()
        with connection.locked():
            assert Path(unpack(connection, [tmp_path / "a.whl"])).is_dir()
