"""Jobs on this machine's agent, without SSH: what they give, each way in which they fail, and answers that deceive."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgevit.errors import ConnectionLost, TargetError
from edgevit.targets import agent_session as agent_sessions
from edgevit.targets import connection as connections
from edgevit.targets.agent.agent import Agent
from edgevit.targets.agent.carried import Carried
from edgevit.targets.agent.job_folder import JobFolder
from edgevit.targets.agent.jobs import Jobs
from edgevit.targets.agent_session import BOOTSTRAP, AgentSession, Refused, agent_session
from edgevit.targets.channel import Channel
from edgevit.targets.connection import Connection, connected
from edgevit.targets.jobs import Finished, Job, _name, run_job
from edgevit.targets.named import NamedTarget
from edgevit.targets.reach import reached
from edgevit.targets.uploads import clean, evict
from tests.targets.machine import own_home
from tests.targets.sending import sent
from tests.targets.ssh_host import is_gone, number_in

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux, as the targets of the agent do")
HERE = NamedTarget("local-cpu")
OUTPUTS = dict.fromkeys(("x", "out", "begun", "copy.bin", "empty", "input.bin", "link", "pipe"), 2_500_000)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder and a lock of the test's own."""
    return own_home(tmp_path, monkeypatch)


@pytest.fixture
def here(home: Path) -> Iterator[Connection]:
    with connected(HERE, pytest.fail) as connection:
        yield connection


def job(script: str, is_repeatable: bool = False, timeout_s: float = 60, **files: Path) -> Job:
    """A job that runs a script of the shell."""
    return Job(files, ("sh", "-c", script), {}, timeout_s, is_repeatable, OUTPUTS)


def counted(folder: Path) -> int:
    """How often a script has written a line into the file `runs`."""
    file = folder / "runs"
    return len(file.read_text().splitlines()) if file.exists() else 0


def jobs_in(home: Path) -> list[Path]:
    return sorted((home / ".cache" / "edgevit" / "jobs").glob("*"))


def test_a_job_reads_its_files_and_gives_what_it_writes(here: Connection, tmp_path: Path, home: Path) -> None:
    large = os.urandom(2_500_000)
    (tmp_path / "input").write_bytes(large)
    program = tmp_path / "a program.py"
    program.write_text(
        "import os, sys\n"
        "open('copy.bin', 'wb').write(open('input.bin', 'rb').read())\n"
        "open('empty', 'wb')\n"
        "os.mkdir('folder'), os.symlink('copy.bin', 'link'), os.mkfifo('pipe'), open('a name', 'w')\n"
        "open('.hidden', 'w')\n"
        "print(os.environ['WORD'], sys.argv[1:], sys.stdin.read() == '')\n"
        "sys.exit('the end')\n"
    )
    asked = Job(
        {"program.py": program, "input.bin": tmp_path / "input"},
        (sys.executable, "-B", "program.py", "~/x", "a ~/ b", "$HOME; touch y"),
        {"WORD": "a  word"},
        60,
        is_repeatable=False,
        outputs=OUTPUTS,
    )
    finished = run_job(here, asked, tmp_path / "out")
    assert (finished.status, finished.timed_out, finished.stderr) == (1, False, "the end\n")
    assert finished.stdout == f"a  word {[f'{home}/x', 'a ~/ b', '$HOME; touch y']} True\n"
    assert finished.files == {name: tmp_path / "out" / name for name in ("copy.bin", "empty")}
    assert finished.files["copy.bin"].read_bytes() == large
    assert finished.files["empty"].read_bytes() == b""
    assert 0 < finished.seconds < 60
    assert jobs_in(home) == []


def test_a_job_does_not_change_the_files_that_it_shares(here: Connection, tmp_path: Path, home: Path) -> None:
    (tmp_path / "input").write_bytes(b"content")
    run_job(here, job("rm input; echo other > input", input=tmp_path / "input"), tmp_path / "out")
    (stored,) = (home / ".cache" / "edgevit" / "files").iterdir()
    assert stored.read_bytes() == b"content"
    assert stored.stat().st_mode & 0o777 == 0o400


def test_the_end_of_what_a_failing_job_prints_is_kept(here: Connection, tmp_path: Path) -> None:
    script = "yes begin | head -n 50000 >&2; echo last words >&2; yes | head -c 100000; kill -9 $$"
    finished = run_job(here, job(script), tmp_path / "out")
    assert finished.status == -signal.SIGKILL
    assert finished.stderr.endswith("begin\nlast words\n")
    assert (len(finished.stderr), len(finished.stdout)) == (65536, 65536)


def test_a_job_over_its_time_is_stopped_with_what_it_started(here: Connection, tmp_path: Path) -> None:
    script = f"sleep 60 & echo $! > {tmp_path}/child; echo begun > begun; echo words >&2; wait"
    finished = run_job(here, job(script, timeout_s=0.5), tmp_path / "out")
    assert (finished.status, finished.timed_out, finished.stderr) == (None, True, "words\n")
    assert list(finished.files) == ["begun"]
    assert is_gone(number_in(tmp_path / "child"))


def test_what_a_job_leaves_running_is_stopped(here: Connection, tmp_path: Path) -> None:
    finished = run_job(here, job(f"sleep 60 & echo $! > {tmp_path}/child"), tmp_path / "out")
    assert finished.status == 0
    assert is_gone(number_in(tmp_path / "child"))


def test_a_program_that_is_not_there_is_said(here: Connection, tmp_path: Path, home: Path) -> None:
    for program in ("no-such-program", "/etc/hostname", "~/none"):
        with pytest.raises(Refused) as caught:
            run_job(here, Job({}, (program,), {}, 5, True), tmp_path / "out")
        assert caught.value.failure.kind == "no_program"
        assert jobs_in(home) == []


def test_an_equal_job_runs_again_only_if_it_has_to(here: Connection, tmp_path: Path) -> None:
    """Inference that succeeded is taken; timing is not, and a failure is not either."""
    script = f"echo x >> {tmp_path}/runs; echo $$ > out"
    first, second = (run_job(here, job(script, True), tmp_path / str(n)).files["out"].read_text() for n in (1, 2))
    assert (first == second, counted(tmp_path)) == (True, 1)
    for n in (2, 3):
        run_job(here, job(script), tmp_path / "timing")
        assert counted(tmp_path) == n
    assert run_job(here, job(f"{script}; exit 3", True), tmp_path / "failing").status == 3
    assert run_job(here, job(f"{script}; exit 3", True), tmp_path / "failing").status == 3
    assert counted(tmp_path) == 5


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    """The shell's limit on the size of files fails a write as a full disk does, also in the job."""
    limited = ("sh", "-c", f"ulimit -f 400; exec {sys.executable} -c '{BOOTSTRAP}'")
    with here_by(tmp_path, *limited) as connection:
        (tmp_path / "large").write_bytes(os.urandom(500_000))
        with pytest.raises(TargetError, match="the target's disk is full"):
            run_job(connection, job("true", large=tmp_path / "large"), tmp_path / "out")
        fails = "open('out', 'wb').write(bytes(500_000))"
        finished = run_job(connection, Job({}, (sys.executable, "-c", fails), {}, 60, True), tmp_path / "out")
        assert finished.status == 1
        assert "File too large" in finished.stderr


def test_the_result_of_a_job_is_known_though_the_disk_has_no_room_for_it(
    here: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent says how the job ended as long as it lives."""
    jobs = Jobs(str(tmp_path / "work"), threading.Condition(), lambda: False)
    monkeypatch.setattr(JobFolder, "write_done", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    name = "0" * 64
    jobs.start({"job": name, "arguments": ["sh", "-c", "echo x > x; exit 4"], "limit_s": 5})
    state = jobs.state({"job": name, "wait_s": 5})
    assert (state["state"], state["status"], [output["name"] for output in state["outputs"]]) == ("done", 4, ["x"])
    assert base64.b64decode(jobs.get({"job": name, "name": "x", "offset": 0})["data"]) == b"x\n"
    jobs.forget({"job": name})
    assert jobs.state({"job": name, "wait_s": 0})["state"] == "unknown"


@contextmanager
def here_by(folder: Path, *command: str) -> Iterator[Connection]:
    """A connection whose agent is started by a command, and that does not connect again."""

    class ByCommand(Connection):
        def reach(self) -> None:
            if hasattr(self, "_session"):
                raise ConnectionLost("gone")
            self._session = self._stack.enter_context(session(folder, *command))

    connection = ByCommand(HERE, lambda line: None)
    connection.reach()
    try:
        yield connection
    finally:
        connection.close()


def session(folder: Path, *command: str) -> AbstractContextManager[AgentSession]:
    def ended(status: int, stderr: str) -> TargetError:
        return TargetError(f"ended with {status}", got=stderr)

    channel = Channel(command or (sys.executable, "-c", BOOTSTRAP), "here")
    return agent_session(channel, "here", "python3", str(folder / "work"), ended)


def start(agent: AgentSession, script: str, number: int = 0, **values: Any) -> str:
    """Start a job, and give its name."""
    name = hashlib.sha256(str(number).encode()).hexdigest()
    values = {"arguments": ["sh", "-c", script], "limit_s": 60, **values}
    assert agent.ask_for_json("start", job=name, **values) == {"is_new": True}
    return name


def state(agent: AgentSession, name: str, wait_s: int = 10) -> str:
    return str(agent.ask_for_json("job", job=name, wait_s=wait_s)["state"])


def test_a_job_goes_on_when_the_line_drops_and_another_agent_gets_its_result(tmp_path: Path) -> None:
    script = f"echo x >> {tmp_path}/runs; echo $$ > {tmp_path}/pid; sleep 1; echo result > out"
    with session(tmp_path) as first:
        assert first.ask_for_json("lock", by="ada")["held"]
        name = start(first, script)
        first._channel._input.close()
        with session(tmp_path) as second:
            number_in(tmp_path / "pid")
            assert not second.ask_for_json("lock", by="bo")["held"]  # the first measures still
            assert second.ask_for_json("start", job=name, arguments=["false"], limit_s=9) == {"is_new": False}
            with pytest.raises(Refused, match="refused") as caught:
                second.ask_for_json("forget", job=name)
            assert caught.value.failure.kind == "running"
            assert state(second, name) == "done"
            answer = second.ask_for_json("get", job=name, name="out", offset=0)
            assert base64.b64decode(answer["data"]) == b"result\n"
            second.lock("bo", 10)
            second.ask_for_json("forget", job=name)
            assert state(second, name, 0) == "unknown"
    assert counted(tmp_path) == 1


@pytest.mark.slow
def test_an_agent_stops_the_job_of_another(tmp_path: Path) -> None:
    with session(tmp_path) as first, session(tmp_path) as second:
        name = start(first, f"echo $$ > {tmp_path}/pid; exec sleep 60")
        leader = number_in(tmp_path / "pid")
        assert state(second, name, 0) == "running"
        second.ask_for_json("stop", job=name)
        assert is_gone(leader)
        answers = [agent.ask_for_json("job", job=name, wait_s=5) for agent in (first, second)]
        assert answers[0] == answers[1]
        ended = tuple(answers[0][key] for key in ("state", "status", "stopped"))
        assert ended == ("done", -signal.SIGKILL, True)


def test_another_process_of_the_same_number_is_not_killed(tmp_path: Path) -> None:
    """The lock of a job is held, but the process in its record is another one."""
    with session(tmp_path) as first, session(tmp_path) as second:
        name = start(first, "exec sleep 60")
        time.sleep(2 / os.sysconf("SC_CLK_TCK"))  # processes are told apart by the tick of their start
        other = subprocess.Popen(["sleep", "60"], start_new_session=True)
        record = tmp_path / "work" / "jobs" / name / "started.json"
        started = json.loads(record.read_text())
        record.write_text(json.dumps({**started, "leader": other.pid}))
        with pytest.raises(TargetError, match="does not answer"):
            second.ask_for_json("stop", 0.5, job=name)
        assert other.poll() is None
        other.kill()
        other.wait()
        first.ask_for_json("stop", job=name)


@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGHUP])
def test_a_signal_stops_the_jobs_of_an_agent(number: int, tmp_path: Path) -> None:
    script = f"echo $$ > {tmp_path}/agent; exec {sys.executable} -c '{BOOTSTRAP}'"
    with session(tmp_path, "sh", "-c", script) as agent:
        name = start(agent, f"echo $$ > {tmp_path}/pid; exec sleep 60")
        leader = number_in(tmp_path / "pid")
        os.kill(number_in(tmp_path / "agent"), number)
        assert is_gone(leader)
    with session(tmp_path) as other:
        answer = other.ask_for_json("job", job=name, wait_s=0)
        assert answer["state"] == "unknown" or (answer["status"], answer["stopped"]) == (-signal.SIGKILL, True)


def impatient(monkeypatch: pytest.MonkeyPatch, *changes: tuple[str, str]) -> None:
    """Let agents that are started from now on wait less."""
    source = agent_sessions.SOURCE
    for old, new in changes:
        assert source.count(old.encode()) == 1
        source = source.replace(old.encode(), new.encode())
    monkeypatch.setattr(agent_sessions, "SOURCE", source)


@pytest.mark.slow
def test_a_silent_client_loses_the_lock_and_takes_it_again(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its line may be dead. Its job goes on; without one, others may measure at once."""
    impatient(monkeypatch, ("LOCKED_IDLE_S = 180", "LOCKED_IDLE_S = 0.3"))
    said: list[str] = []
    with connected(HERE, said.append) as silent, session(tmp_path) as other, silent.locked():
        run_job(silent, job("true"), tmp_path / "out")
        other.lock("bo", 10)
        other.unlock()
        run_job(silent, job("true"), tmp_path / "out")
        assert not other.ask_for_json("lock", by="bo")["held"]
    assert said == [DROPPED]


@pytest.mark.slow
def test_an_agent_without_a_client_waits_for_its_job_for_a_limited_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient(monkeypatch, ("ORPHAN_S = 600", "ORPHAN_S = 0.5"))
    with session(tmp_path) as agent:
        start(agent, f"echo $$ > {tmp_path}/pid; exec sleep 60")
        leader = number_in(tmp_path / "pid")
        agent._channel._input.close()
        assert is_gone(leader)


def test_a_job_of_a_killed_agent_is_known_as_long_as_it_runs(tmp_path: Path) -> None:
    script = f"echo $$ > {tmp_path}/agent; exec {sys.executable} -c '{BOOTSTRAP}'"
    with session(tmp_path, "sh", "-c", script) as agent:
        name = start(agent, f"echo $$ > {tmp_path}/pid; exec sleep 60")
        leader = number_in(tmp_path / "pid")
        os.kill(number_in(tmp_path / "agent"), signal.SIGKILL)
        with session(tmp_path) as other:
            assert state(other, name, 0) == "running"
            other.ask_for_json("stop", job=name)
            assert is_gone(leader)
            assert state(other, name, 0) == "unknown"  # nobody has kept its result
            assert start(other, "true") == name
            assert state(other, name) == "done"


def test_the_next_request_ends_a_wait(tmp_path: Path) -> None:
    """Ctrl-C breaks a request off; the next one does not wait for its answer, and does not take it for its own."""
    with session(tmp_path) as agent:
        name = start(agent, "exec sleep 60")
        began = time.monotonic()
        with pytest.raises(TargetError, match="does not answer"):
            agent.ask_for_json("job", 0.2, job=name, wait_s=30)
        assert agent.ask_for_json("stop", job=name) == {}
        assert time.monotonic() - began < 20
        assert agent.ask_for_json("job", job=name, wait_s=0)["status"] == -signal.SIGKILL


def test_running_jobs_and_their_packages_stay_when_room_is_made(tmp_path: Path) -> None:
    package = "a" * 64
    folder = tmp_path / "work" / "packages" / package
    folder.mkdir(parents=True)
    (folder / "module.py").write_bytes(b"x" * 100)
    with session(tmp_path) as agent:
        running = start(agent, "exec sleep 60", environment={"PYTHONPATH": str(folder)})
        done = start(agent, "head -c 1000 /dev/zero > zeros", 1)
        assert state(agent, done) == "done"
        assert evict(agent, 0).removed_bytes > 1000
        assert folder.is_dir()
        assert [state(agent, name, 0) for name in (running, done)] == ["running", "unknown"]
        clean(agent)
        assert folder.is_dir()
        agent.ask_for_json("stop", job=running)
        assert evict(agent, 0, keep=[running]).removed_bytes == 100
        assert state(agent, running, 0) == "done"
        clean(agent)
        assert not (tmp_path / "work").exists()


def test_jobs_count_as_stored_and_shared_files_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 100_000)
    with session(tmp_path) as agent:
        (name,) = sent(agent, [tmp_path / "file"]).values()
        done = start(agent, "head -c 50000 input > out", files={"input": name})
        assert state(agent, done) == "done"
        stored = evict(agent, 2**30).stored_bytes
        assert 150_000 <= stored < 160_000


@pytest.mark.parametrize(
    ("request_", "kind"),
    [
        ({"files": {"../x": "0" * 64}}, "bad_request"),
        ({"files": {"a/b": "0" * 64}}, "bad_request"),
        ({"files": {".": "0" * 64}}, "bad_request"),
        ({"files": {"x\n": "0" * 64}}, "bad_request"),
        ({"files": {"x": "../" + "0" * 61}}, "bad_request"),
        ({"files": {"x": "0" * 64}}, "missing_file"),
        ({"files": []}, "bad_request"),
        ({"arguments": []}, "bad_request"),
        ({"arguments": [""]}, "bad_request"),
        ({"arguments": ["a\0b"]}, "bad_request"),
        ({"arguments": ["\ud800"]}, "bad_request"),
        ({"environment": {"A=B": "x"}}, "bad_request"),
        ({"environment": {"A": 7}}, "bad_request"),
        ({"limit_s": 0}, "bad_request"),
        ({"limit_s": 1e9}, "bad_request"),
        ({"limit_s": True}, "bad_request"),
        ({"job": "0" * 63}, "bad_request"),
        ({"job": "../" + "0" * 61}, "bad_request"),
    ],
)
def test_a_wrong_job_is_refused(request_: dict[str, Any], kind: str, tmp_path: Path) -> None:
    agent = Agent()
    agent.reply(json.dumps({"id": 0, "do": "hello", "work_folder": str(tmp_path / "work")}).encode())
    values = {"job": "0" * 64, "arguments": ["true"], "limit_s": 5, **request_}
    answer = agent.reply(json.dumps({"id": 1, "do": "start", **values}).encode())
    assert answer["error"]["kind"] == kind
    assert not list((tmp_path / "work").glob("jobs/*"))


def test_only_what_a_job_has_written_can_be_got(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    with session(tmp_path) as agent:
        (input_,) = sent(agent, [tmp_path / "file"]).values()
        done = start(agent, "ln -s /etc/hostname link; mkfifo pipe; echo x > out", files={"input": input_})
        assert state(agent, done) == "done"
        for name in ("../lock", "link", "pipe", "input", "none", "", "/etc/hostname"):
            with pytest.raises(Refused) as caught:
                agent.ask_for_json("get", job=done, name=name, offset=0)
            assert caught.value.failure.kind == "bad_request"
        (tmp_path / "work" / "jobs" / done / "files" / "out").unlink()
        (tmp_path / "work" / "jobs" / done / "files" / "out").symlink_to("/etc/hostname")
        with pytest.raises(Refused):
            agent.ask_for_json("get", job=done, name="out", offset=0)


DROPPED = "the agent of local-cpu has ended; starting it again"


def kill(connection: Connection) -> None:
    """Kill the agent."""
    os.killpg(connection._session._channel._process.pid, signal.SIGKILL)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dropped line is reached anew at once."""
    monkeypatch.setattr(connections, "FIRST_WAIT_S", 0.02)


def test_a_download_goes_on_where_the_line_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    offsets: list[int] = []
    ask = AgentSession.ask

    def watched(session: AgentSession, do: str, *more: object, **values: object) -> object:
        if do == "get":
            offsets.append(int(str(values["offset"])))
            if len(offsets) == 2:
                kill(connection)
        return ask(session, do, *more, **values)  # type: ignore[arg-type]

    monkeypatch.setattr(AgentSession, "ask", watched)
    with connected(HERE, said.append) as connection:
        finished = run_job(connection, job("head -c 2500000 /dev/urandom > out; sha256sum out"), tmp_path / "out")
    assert offsets == [0, 2**20, 2**20, 2**21]
    assert said == [DROPPED]
    assert finished.stdout.split()[0] == hashlib.sha256(finished.files["out"].read_bytes()).hexdigest()


@pytest.mark.slow
def test_a_line_that_drops_again_and_again_is_given_up() -> None:
    said: list[str] = []
    calls: list[int] = []
    with connected(HERE, said.append) as connection:

        def dropping(agent: AgentSession) -> None:
            calls.append(1)
            kill(connection)
            agent.ask_for_json("clean")

        with pytest.raises(ConnectionLost):
            connection.call(dropping)
    assert (len(calls), said) == (connections.MOST_DROPS + 1, [DROPPED])


@pytest.mark.slow
def test_two_clients_measure_one_after_the_other(tmp_path: Path) -> None:
    """Each writes when it begins and when it ends."""
    script = f"echo begin >> {tmp_path}/log; sleep 0.3; echo end >> {tmp_path}/log"
    said: list[str] = []

    def measure() -> None:
        with connected(HERE, said.append) as connection, connection.locked(), connection.locked():
            assert run_job(connection, job(script), tmp_path / "out").status == 0

    clients = [threading.Thread(target=measure) for _ in range(2)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    assert (tmp_path / "log").read_text().split() == ["begin", "end"] * 2
    assert len(said) == 1


def test_a_lock_that_stays_taken_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "LOCK_WAIT_S", 0)
    with reached(HERE) as other:
        other.lock("bo@desk", 0)
        with (
            pytest.raises(TargetError, match="another user measures"),
            connected(HERE, pytest.fail) as connection,
            connection.locked(),
        ):
            pass


class Deceiver:
    """A connection whose answers are made up."""

    def __init__(self, **answers: object) -> None:
        self.target = HERE
        self.asked: list[str] = []
        self.waiting: set[str] = set()
        self._answers = {"start": {"is_new": True}, "stop": {}, "forget": {}, **answers}

    def say(self, line: str) -> None:
        pass

    def call(self, function: Callable[[Any], Any]) -> Any:
        return function(self)

    call_once = call

    def ask(self, do: str, answer: type[Any], timeout_s: float = 0, **values: Any) -> Any:
        self.asked.append(do)
        given = self._answers[do]
        return AgentSession.ask(_Answering(given), do, answer)  # type: ignore[arg-type]


class _Answering:
    """As much of a session as checks an answer."""

    where = "here"
    _no_answer = AgentSession._no_answer

    def __init__(self, answer: object) -> None:
        self._answer = answer

    def ask_for_json(self, do: str, timeout_s: float, **values: Any) -> object:
        return self._answer


DONE = {
    "state": "done",
    "status": 0,
    "timed_out": False,
    "stopped": False,
    "seconds": 1.0,
    "stdout": "",
    "stderr": "",
    "outputs": [],
    "carried": {},
}
X = {"name": "x", "bytes": 3, "sha256": hashlib.sha256(b"abc").hexdigest()}
DECEITS: dict[str, tuple[dict[str, object], object, str]] = {
    "no hash of a carried file": ({"carried": {"x": {"before": None, "after": "../x"}}}, "YWJj", "carried.x.after"),
    "a path": ({"outputs": [{**X, "name": "../x"}]}, "YWJj", "outputs.0.name"),
    "an absolute path": ({"outputs": [{**X, "name": "/x"}]}, "YWJj", "outputs.0.name"),
    "a hidden file": ({"outputs": [{**X, "name": ".bashrc"}]}, "YWJj", "outputs.0.name"),
    "a line end": ({"outputs": [{**X, "name": "x\n"}]}, "YWJj", "outputs.0.name"),
    "too many files": ({"outputs": [{**X, "name": f"x{n}"} for n in range(1001)]}, "YWJj", "outputs"),
    "too many bytes": ({"outputs": [{**X, "bytes": 2_500_001}]}, "YWJj", "too large"),
    "a negative size": ({"outputs": [{**X, "bytes": -1}]}, "YWJj", "outputs.0.bytes"),
    "no hash": ({"outputs": [{**X, "sha256": "x"}]}, "YWJj", "outputs.0.sha256"),
    "another content": ({"outputs": [X]}, "YWJk", "not what its hash says"),
    "a longer file": ({"outputs": [X]}, "YWJjZA==", "does not go on"),
    "a file without end": ({"outputs": [X]}, "", "does not go on"),
    "no base64": ({"outputs": [X]}, "%%%", "does not go on"),
    "a chunk too long": ({"outputs": [X]}, "YWJj" * 2**20, "data"),
    "a long stderr": ({"stderr": "x" * 70_000}, "", "stderr"),
    "no time": ({"seconds": -1}, "", "seconds"),
    "another state": ({"state": "lost"}, "", "state"),
    "a huge status": ({"status": 2**40}, "", "status"),
}


@pytest.mark.parametrize(("answer", "data", "says"), DECEITS.values(), ids=DECEITS)
def test_an_answer_that_deceives_is_an_error(
    answer: dict[str, object], data: object, says: str, tmp_path: Path
) -> None:
    deceiver = Deceiver(job={**DONE, **answer}, get={"data": data})
    with pytest.raises(TargetError) as caught:
        run_job(deceiver, job("true"), tmp_path / "out")  # type: ignore[arg-type]
    assert says in str(caught.value)
    assert "stop" in deceiver.asked
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_only_the_files_that_are_asked_for_are_fetched(here: Connection, tmp_path: Path) -> None:
    """A host may write as many others as it likes."""
    asked = replace(job("head -c 3000000 /dev/zero > other; echo x > x; echo y > y"), outputs={"x": 2, "z": 2})
    assert run_job(here, asked, tmp_path / "out").files == {"x": tmp_path / "out" / "x"}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["x"]
    with pytest.raises(TargetError, match="too large"):
        run_job(here, replace(asked, outputs={"x": 1}), tmp_path / "out")


def test_a_job_that_the_target_loses_is_started_twice_at_most(tmp_path: Path) -> None:
    deceiver = Deceiver(job={**DONE, "state": "unknown", "status": None})
    with pytest.raises(TargetError, match="the target lost the job"):
        run_job(deceiver, job("true"), tmp_path / "out")  # type: ignore[arg-type]
    assert deceiver.asked == ["start", "job"] * 2 + ["stop", "forget"]


def test_a_carried_file_goes_from_one_job_to_the_next(here: Connection, tmp_path: Path, home: Path) -> None:
    def ran(script: str, name: str = "a") -> Finished:
        return run_job(here, replace(job(script), carries={"cache": name * 64}), tmp_path / "out")

    first = ran("test ! -e cache; echo 1 > cache").carried["cache"]
    assert (first.before, first.after) == (None, hashlib.sha256(b"1\n").hexdigest())
    second = ran("cat cache; echo 2 >> cache")
    assert (second.stdout, second.carried["cache"].before) == ("1\n", first.after)
    failed = ran("echo broken > cache; exit 3").carried["cache"]
    assert failed.before == failed.after == second.carried["cache"].after
    killed = ran("echo broken > cache; kill -9 3940").carried["cache"]
    assert killed.after == failed.after
    assert ran("cat cache").stdout == "1\n2\n"
    assert ran("cat cache || true", "b").stdout == ""
    assert ran("rm cache", "c").status == 1  # there is none
    ran("echo 1 > cache", "c")
    assert ran("rm cache", "c").carried["cache"].after is None
    assert ran("test ! -e cache", "c").status == 0  # it is not carried any more
    kept = home / ".cache" / "edgevit" / "carried"
    assert [file.name for file in kept.iterdir()] == ["a" * 64]
    here.call(lambda session: evict(session, 0))
    assert not list(kept.iterdir())


def test_a_carried_file_that_is_too_large_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    carried, name = Carried(str(tmp_path)), "a" * 64
    for content, is_kept in ((b"123", True), (b"1234", False), (b"1", True)):
        monkeypatch.setattr("edgevit.targets.agent.carried.LARGEST_CARRIED", 3)
        (tmp_path / "cache").write_bytes(content)
        with (tmp_path / "cache").open("rb") as file:
            assert (carried.keep(name, file) is not None) == is_kept
        assert (carried.take(name, str(tmp_path / "copy")) is not None) == is_kept
    assert (tmp_path / "copy").read_bytes() == b"1"


def test_a_carried_file_takes_no_name_of_an_input(here: Connection, tmp_path: Path) -> None:
    (tmp_path / "input").write_bytes(b"content")
    with pytest.raises(Refused, match="refused"):
        run_job(here, replace(job("true", input=tmp_path / "input"), carries={"input": "a" * 64}), tmp_path / "out")


def test_a_job_that_was_stopped_is_started_again(here: Connection, tmp_path: Path, home: Path) -> None:
    """An agent that ended has killed it, or another client: that its memory was short would not be true."""
    runs = tmp_path / "runs"
    script = f"echo x >> {runs}; test $(wc -l < {runs}) -gt 1 || exec sleep 60; echo y > x"
    with connected(HERE, pytest.fail) as other:

        def stop() -> None:
            while counted(tmp_path) == 0:
                time.sleep(0.02)
            (name,) = [path.name for path in jobs_in(home)]
            other.call(lambda agent: agent.ask_for_json("stop", job=name))

        stopping = threading.Thread(target=stop)
        stopping.start()
        finished = run_job(here, job(script, True), tmp_path / "out")
        stopping.join()
    assert (finished.status, finished.files["x"].read_text(), counted(tmp_path)) == (0, "y\n", 2)


def test_a_job_that_is_being_started_is_stopped_by_another_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine, its program runs for a while before a file says which process it is."""
    first, second = (Jobs(str(tmp_path / "work"), threading.Condition(), lambda: False) for _ in range(2))
    write, runs, goes_on = JobFolder.write_started, threading.Event(), threading.Event()

    def write_later(*arguments: Any) -> None:
        runs.set()
        goes_on.wait(60)
        write(*arguments)

    monkeypatch.setattr(JobFolder, "write_started", write_later)
    name = "0" * 64
    request = {"job": name, "arguments": ["sleep", "60"], "limit_s": 60}
    starting = threading.Thread(target=first.start, args=(request,))
    starting.start()
    assert runs.wait(60)
    later = threading.Timer(0.5, goes_on.set)
    later.start()
    second.stop({"job": name})
    starting.join()
    state = first.state({"job": name, "wait_s": 30})
    assert (state["state"], state["stopped"], state["status"]) == ("done", True, -9)


def test_a_session_with_endless_old_answers_is_an_error(tmp_path: Path) -> None:
    """Answers to earlier requests are passed over, but not for ever."""
    hello = '{"id": 1, "result": {"version": 1, "python": "3.11.0", "work_folder": "/w"}}'
    script = f"echo edgevit-python 3.11.0; echo '{hello}'; yes '{hello}'"
    with session(tmp_path, "sh", "-c", script) as agent, pytest.raises(TargetError, match="the answer is not"):
        agent.ask_for_json("clean")


def test_equal_jobs_have_one_name_and_timings_have_their_own(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    asked = job("true", True, a=tmp_path / "a")
    hashes = {tmp_path / "a": "0" * 64}
    others = [
        replace(asked, arguments=("false",)),
        replace(asked, environment={"A": "B"}),
        replace(asked, files={"b": tmp_path / "a"}),
        replace(asked, is_repeatable=False),
        replace(asked, is_repeatable=False),
    ]
    assert _name(asked, hashes) == _name(replace(asked, files=dict(asked.files)), hashes)
    assert len({_name(one, hashes) for one in [asked, *others]}) == 6
    assert _name(asked, {tmp_path / "a": "1" * 64}) != _name(asked, hashes)
