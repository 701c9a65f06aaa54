"""Connections and jobs over a real SSH server: the line drops, clients are killed, and two want one machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgevit.errors import ConnectionLost, TargetError
from edgevit.targets import connection as connections
from edgevit.targets.connection import Connection, connected
from edgevit.targets.jobs import Job, run_job
from edgevit.targets.named import NamedTarget
from edgevit.targets.packages import unpack
from edgevit.targets.reach import reached
from tests.targets.machine import small_disk_at
from tests.targets.ssh_host import SshHost, is_gone, needs_sshd, number_in

pytestmark = needs_sshd
DROPPED = "the line to board dropped; connecting again"


@pytest.fixture
def host(server: SshHost, monkeypatch: pytest.MonkeyPatch) -> SshHost:
    """The server, with the right keys on both sides."""
    monkeypatch.setenv("PATH", server.path)
    monkeypatch.setattr(connections, "FIRST_WAIT_S", 0.05)
    server.accept("user_key")
    server.know("host_key")
    return server


@pytest.fixture
def board(host: SshHost, tmp_path: Path) -> NamedTarget:
    """A target with a work folder and a lock of the test's own."""
    (tmp_path / "tmp").mkdir()
    python = host.script(f"python-{tmp_path.name}", f"export EDGEVIT_ROOT={tmp_path}", f'exec {sys.executable} "$@"')
    return host.target(str(python), work_folder=str(tmp_path / "work"))


def job(script: str, is_repeatable: bool = False, **files: Path) -> Job:
    return Job(files, ("sh", "-c", script), {}, 60, is_repeatable, {"out": 100})


def slow(folder: Path, seconds: float = 1) -> str:
    """A script that says that it runs, and writes its result later."""
    return f"echo x >> {folder}/runs; echo $$ > {folder}/pid; sleep {seconds}; echo result > out"


def kill_ssh(connection: Connection) -> None:
    """Kill the client's ssh, as a line that drops does."""
    os.killpg(connection._session._channel._process.pid, signal.SIGKILL)


def test_a_job_runs_once_though_the_line_drops_in_the_middle(board: NamedTarget, tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "input").write_bytes(b"content")
    with connected(board, said.append) as connection:

        def drop() -> None:
            number_in(tmp_path / "pid")
            kill_ssh(connection)

        dropping = threading.Thread(target=drop)
        dropping.start()
        with connection.locked():
            finished = run_job(connection, job(slow(tmp_path), input=tmp_path / "input"), tmp_path / "out")
            assert run_job(connection, job("true"), tmp_path / "out").status == 0
            with reached(board) as other:
                assert not other.ask_for_json("lock", by="x")["held"]  # the connection has the lock again
        dropping.join()
        assert (finished.status, finished.files["out"].read_text()) == (0, "result\n")
        assert (tmp_path / "runs").read_text() == "x\n"
    assert said == [DROPPED]  # and nothing of the lock, which its own job held
    assert not list((tmp_path / "work" / "jobs").iterdir())


@pytest.mark.slow
def test_a_target_that_does_not_come_back_is_said(
    board: NamedTarget, host: SshHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job goes on there meanwhile; an equal one takes its result when the target is back."""
    monkeypatch.setattr(connections, "RECONNECT_S", 0.5)
    said: list[str] = []
    with connected(board, said.append) as connection:

        def vanish() -> None:
            number_in(tmp_path / "pid")
            host.script("bin/ssh", "echo 'ssh: connect to host board port 22: No route to host' >&2; exit 255")
            kill_ssh(connection)

        working = (host.folder / "bin" / "ssh").read_text()
        vanishing = threading.Thread(target=vanish)
        vanishing.start()
        try:
            with pytest.raises(ConnectionLost, match="did not come back") as caught:
                run_job(connection, job(slow(tmp_path), True), tmp_path / "out")
        finally:
            vanishing.join()
            (host.folder / "bin" / "ssh").write_text(working)
    assert "the host cannot be reached: ssh: connect" in str(caught.value.got)
    assert said == [DROPPED, "board could not be told to stop: what runs there ends by itself"]
    with connected(board, pytest.fail) as again:
        finished = run_job(again, job(slow(tmp_path), True), tmp_path / "out")
    assert finished.files["out"].read_text() == "result\n"
    assert (tmp_path / "runs").read_text() == "x\n"


@pytest.mark.parametrize("python", [pytest.param("'~/my env/python' -s", marks=pytest.mark.slow), "'my env/python' -s"])
def test_the_python_of_a_target_is_words_for_a_job(python: str, host: SshHost, tmp_path: Path) -> None:
    """A relative path begins in the home folder, though a job runs elsewhere."""
    (host.home / "my env").mkdir(exist_ok=True)
    if not (host.home / "my env" / "python").exists():
        (host.home / "my env" / "python").symlink_to(sys.executable)
    with connected(host.target(python), pytest.fail) as connection:
        program = (*connection.python, "-c", "import sys; print(sys.flags.no_user_site)")
        assert run_job(connection, Job({}, program, {}, 60, True), tmp_path / "out").stdout == "1\n"


def test_a_first_connection_is_tried_once(board: NamedTarget, host: SshHost, tmp_path: Path) -> None:
    working = (host.folder / "bin" / "ssh").read_text()
    host.script("bin/ssh", f"echo x >> {tmp_path}/tries", "echo 'ssh: connect: No route to host' >&2; exit 255")
    try:
        with pytest.raises(TargetError, match="cannot be reached"), connected(board, pytest.fail):
            pass
    finally:
        (host.folder / "bin" / "ssh").write_text(working)
    assert (tmp_path / "tries").read_text() == "x\n"


CLIENT = """
import sys
from pathlib import Path
from edgevit.configs import MachineTarget
from edgevit.targets.connection import connected
from edgevit.targets.jobs import Job, run_job
from edgevit.targets.named import NamedTarget
host, python, folder, script, out = sys.argv[1:]
target = NamedTarget("board", MachineTarget(host=host, python=python, work_folder=folder))
with connected(target, print) as connection, connection.locked():
    run_job(connection, Job({}, ("sh", "-c", script), {}, 60, True), Path(out))
"""


def client(board: NamedTarget, script: str, folder: Path) -> subprocess.Popen[bytes]:
    """Another process that runs a job."""
    config = board.config
    assert config
    arguments = [config.host, config.python, config.work_folder, script, str(folder / "out of client")]
    return subprocess.Popen([sys.executable, "-c", CLIENT, *arguments], stderr=subprocess.DEVNULL)


@pytest.mark.slow
def test_a_killed_client_leaves_a_result_and_a_free_lock(board: NamedTarget, tmp_path: Path) -> None:
    killed = client(board, slow(tmp_path, 1.5), tmp_path)
    number_in(tmp_path / "pid")
    killed.kill()
    killed.wait()
    said: list[str] = []
    with connected(board, said.append) as connection, connection.locked():
        finished = run_job(connection, job(slow(tmp_path, 1.5), True), tmp_path / "out")
    assert finished.files["out"].read_text() == "result\n"
    assert (tmp_path / "runs").read_text() == "x\n"
    assert [line.partition(":")[0] for line in said] == ["waiting for board"]


def test_ctrl_c_stops_the_job_there(board: NamedTarget, tmp_path: Path) -> None:
    interrupted = client(board, slow(tmp_path, 60), tmp_path)
    leader = number_in(tmp_path / "pid")
    interrupted.send_signal(signal.SIGINT)
    interrupted.wait(20)
    assert is_gone(leader)
    with reached(board) as agent:
        agent.lock("other", 5)  # nobody holds it
    assert not list((tmp_path / "work" / "jobs").iterdir())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    with small_disk_at(tmp_path / "small") as folder:
        yield folder


@pytest.mark.slow
def test_a_disk_that_fills(host: SshHost, small_disk: Path, tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    python = host.script(f"python-{tmp_path.name}", f"export EDGEVIT_ROOT={tmp_path}", f'exec {sys.executable} "$@"')
    target = host.target(str(python), work_folder=str(small_disk / "work"))
    with connected(target, pytest.fail) as connection:
        zeros = Job({}, ("sh", "-c", "cat /dev/zero > zeros; exit 5"), {}, 60, False, {"zeros": 2**20})
        finished = run_job(connection, zeros, tmp_path / "out")
        assert finished.status == 5
        assert "No space left on device" in finished.stderr
        assert finished.files["zeros"].stat().st_size > 500_000
        (tmp_path / "large").write_bytes(os.urandom(2_000_000))
        with pytest.raises(TargetError, match="no room"):
            run_job(connection, job("true", large=tmp_path / "large"), tmp_path / "out")
        with zipfile.ZipFile(tmp_path / "large.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
            wheel.writestr("large.py", "0" * 2_000_000)
        with pytest.raises(TargetError, match="the target's disk is full"):
            unpack(connection, [tmp_path / "large.whl"])
        assert list((small_disk / "work" / "packages").iterdir()) == []
        assert run_job(connection, job("echo x > x"), tmp_path / "out").status == 0
