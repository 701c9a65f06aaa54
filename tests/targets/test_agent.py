"""The agent on this machine, without SSH: its file, answers, store and lock, and answers that deceive the client."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from edgevit.artifacts import Frozen
from edgevit.errors import TargetError
from edgevit.targets import uploads
from edgevit.targets.agent import protocol
from edgevit.targets.agent.agent import Agent
from edgevit.targets.agent_session import AGENT_FILES, BOOTSTRAP, AgentSession, Refused, agent_session
from edgevit.targets.channel import Channel
from edgevit.targets.probing import probed
from edgevit.targets.uploads import clean, evict, hashes_of, upload
from tests.targets.sending import sent, sent_bytes
from tests.targets.ssh_host import is_gone, number_in

PYTHONS = ("python3.8", "python3.9", "python3.10", "python3.12", "python3.13")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux, as the targets of the agent do")


def ended(status: int, stderr: str) -> TargetError:
    return TargetError(f"ended with {status}", got=stderr)


def session(folder: Path, *command: str) -> AbstractContextManager[AgentSession]:
    """An agent with a work folder; `command` stands in place of Python and its arguments."""
    channel = Channel(command or (sys.executable, "-c", BOOTSTRAP), "here")
    return agent_session(channel, "here", "python3", str(folder / "work"), ended)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[AgentSession]:
    with session(tmp_path) as started:
        yield started


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "work" / "files").glob("*")}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


FOLDER = Path(str(protocol.__file__)).parent
FILES = [FOLDER / f"{name}.py" for name in AGENT_FILES]


def test_every_file_of_the_agent_is_sent() -> None:
    """worker.py, turns.py and sampler.py go there as files of jobs."""
    assert {file.stem for file in FOLDER.glob("[!_]*.py")} - {"worker", "turns", "sampler"} == set(AGENT_FILES)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.stem))
def test_a_file_is_python_3_8_and_imports_the_standard_library_alone(file: Path) -> None:
    names = set()
    for node in ast.walk(ast.parse(file.read_bytes(), feature_version=(3, 8))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names.add(str(node.module))
    own = {f"edgevit.targets.agent.{name}" for name in AGENT_FILES[: AGENT_FILES.index(file.stem)]}
    assert {name for name in names if name.partition(".")[0] not in sys.stdlib_module_names} <= own


def test_no_file_needs_a_library_newer_than_python_3_8() -> None:
    pytest.importorskip("vermin", reason="needs vermin (pip install 'edgevit[dev]')")
    command = [sys.executable, "-c", "import vermin; vermin.main()", "--no-tips", "-t=3.8-", *map(str, FILES)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.mark.parametrize("quote", ["'", "\\", "$", "!", "`", "\n"])
def test_no_shell_takes_a_character_of_the_bootstrap_for_its_own(quote: str) -> None:
    assert quote not in BOOTSTRAP


@pytest.mark.parametrize("python", PYTHONS)
def test_other_pythons_run_it(python: str, tmp_path: Path) -> None:
    if shutil.which(python) is None or subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode:
        pytest.skip(f"needs {python}")
    with session(tmp_path, python, "-c", BOOTSTRAP) as agent:
        assert agent.hello.python.startswith(python.removeprefix("python"))
        with zipfile.ZipFile(tmp_path / "a.whl", "w") as wheel:
            wheel.writestr("a/b.py", "VALUE = 7")
        hashes = sent(agent, [tmp_path / "a.whl"])
        assert probed(agent).system.python == agent.hello.python
        folder = agent.ask_for_json("unpack", files=list(hashes.values()))["folder"]
        arguments = [python, "-c", "from a import b; print(b.VALUE)"]
        job: dict[str, Any] = {"job": "0" * 64, "arguments": arguments, "environment": {"PYTHONPATH": folder}}
        assert agent.ask_for_json("start", limit_s=60, **job)["is_new"]
        answer = agent.ask_for_json("job", job="0" * 64, wait_s=30)
        assert (answer["state"], answer["status"], answer["stdout"]) == ("done", 0, "7\n")
        assert clean(agent) > 100


def test_a_probe_says_what_the_machine_says(agent: AgentSession, tmp_path: Path) -> None:
    system = probed(agent).system
    assert (system.machine, system.system, system.release) == (os.uname().machine, "Linux", os.uname().release)
    assert system.python == platform.python_version()
    assert system.cpus == len(os.sched_getaffinity(0))
    assert system.memory_bytes == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert system.disk_free_bytes == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)
    assert system.work_folder == str(tmp_path / "work")
    assert not (tmp_path / "work").exists()  # looking writes nothing
    assert system.is_root == (os.geteuid() == 0)


def test_files_and_programs_of_a_stand_in_are_read_below_its_folder(agent: AgentSession, tmp_path: Path) -> None:
    root = tmp_path / "a [strange] name"
    (root / "sys" / "zone0").mkdir(parents=True)
    (root / "sys" / "zone0" / "temp").write_bytes(b"42000\n")
    (root / "sys" / "zone0" / "type").write_bytes(b"cpu\xff\0")
    (root / "sys" / "large").write_bytes(b"x" * 100_000)
    os.mkfifo(root / "sys" / "pipe")
    program = root / "bin" / "board-mode"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "mode $1"; echo warning >&2; exit 3\n')
    program.chmod(0o755)
    commands = [
        {"arguments": ["board-mode", "a b; c"], "timeout_s": 5},
        {"arguments": ["/bin/board-mode"], "timeout_s": 5},
        {"arguments": ["no-such-program"], "timeout_s": 5},
    ]
    patterns = ["/sys/zone*/t*", "/sys/large", "/sys/pipe", "/sys/none"]
    answer = agent.ask_for_json(
        "probe", files=patterns, commands=commands, root=str(root), path=f"{program.parent}:/bin:/usr/bin"
    )
    assert answer["files"] == {"/sys/zone0/temp": "42000\n", "/sys/zone0/type": "cpu�\0", "/sys/large": "x" * 65536}
    assert answer["commands"] == {
        "board-mode a b; c": {"status": 3, "stdout": "mode a b; c\n", "stderr": "warning\n"},
        "/bin/board-mode": {"status": 3, "stdout": "mode \n", "stderr": "warning\n"},
    }


def test_a_command_is_stopped_in_time_with_what_it_started(agent: AgentSession, tmp_path: Path) -> None:
    script = f"sleep 60 & echo $! > {tmp_path}/pid; echo begun; yes | head -c 300000 >&2; wait"
    command = {"arguments": ["sh", "-c", script], "timeout_s": 0.7}
    answer = agent.ask_for_json("probe", commands=[command])["commands"][f"sh -c {script}"]
    assert (answer["status"], answer["stdout"], len(answer["stderr"])) == (None, "begun\n", 65536)
    assert is_gone(number_in(tmp_path / "pid"))


def test_packages_are_those_that_are_installed(agent: AgentSession) -> None:
    import numpy

    answer = agent.ask_for_json("probe", packages=["numpy", "no-such-package"])
    assert answer["system"]["packages"] == {"numpy": numpy.__version__}


def test_what_is_printed_does_not_come_between_the_replies(tmp_path: Path) -> None:
    """A module of the working folder does not stand in for one of the standard library either."""
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong json')")
    command = f"cd {tmp_path}; echo welcome; echo; exec {sys.executable} -c '{BOOTSTRAP}'"
    with session(tmp_path, "sh", "-c", command) as agent:
        assert agent.hello.python == platform.python_version()


def test_only_what_is_missing_is_sent(agent: AgentSession, tmp_path: Path) -> None:
    contents = {"a": b"a" * 3_000_000, "b": b"b", "empty": b""}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    assert sent_bytes(agent, [tmp_path / "a", tmp_path / "empty"]) == 3_000_000
    assert sent_bytes(agent, [tmp_path / name for name in contents]) == 1
    assert sent_bytes(agent, [tmp_path / name for name in contents]) == 0
    assert files_of(tmp_path) == {sha256(content): content for content in contents.values()}
    assert os.stat(tmp_path / "work" / "files").st_mode & 0o777 == 0o700


def put(agent: AgentSession, content: bytes, chunk: bytes, offset: int = 0, name: str = "") -> dict[str, object]:
    import base64

    data = base64.b64encode(chunk).decode()
    name = name or sha256(content)
    return agent.ask_for_json("put", sha256=name, bytes=len(content), offset=offset, data=data)


def test_a_broken_upload_goes_on_where_it_stopped(tmp_path: Path) -> None:
    content = os.urandom(1_500_000)
    (tmp_path / "file").write_bytes(content)
    with session(tmp_path) as first:
        assert put(first, content, content[:500_000]) == {"have": 500_000, "is_whole": False}
    with session(tmp_path) as second:
        assert sent_bytes(second, [tmp_path / "file"]) == 1_000_000
    assert files_of(tmp_path) == {sha256(content): content}


def test_a_part_with_other_content_is_sent_anew(agent: AgentSession, tmp_path: Path) -> None:
    content = b"right" * 1000
    (tmp_path / "file").write_bytes(content)
    put(agent, content, b"wrong" * 500)
    assert sent_bytes(agent, [tmp_path / "file"]) == 2500 + 5000
    assert files_of(tmp_path) == {sha256(content): content}


def test_a_chunk_at_another_place_is_refused_and_no_file_has_a_wrong_hash(agent: AgentSession, tmp_path: Path) -> None:
    content = b"content"
    with pytest.raises(Refused) as caught:
        put(agent, content, b"tent", offset=3)
    assert (caught.value.failure.kind, caught.value.failure.have) == ("wrong_offset", 0)
    with pytest.raises(Refused) as caught:
        put(agent, content, b"CONTENT")
    assert caught.value.failure.kind == "wrong_hash"
    assert files_of(tmp_path) == {}


def test_two_clients_send_one_file_together(agent: AgentSession, tmp_path: Path) -> None:
    content = os.urandom(400_000)
    with session(tmp_path) as other:
        put(agent, content, content[:100_000])
        put(other, content, content[100_000:300_000], offset=100_000)
        (tmp_path / "file").write_bytes(content)
        assert sent_bytes(agent, [tmp_path / "file"]) == 100_000
        assert sent_bytes(other, [tmp_path / "file"]) == 0


def test_a_full_disk_is_said_and_not_kept_full(tmp_path: Path) -> None:
    """The shell's limit on the size of files fails a write as a full disk does."""
    (tmp_path / "large").write_bytes(os.urandom(500_000))
    (tmp_path / "small").write_bytes(b"small")
    with session(tmp_path, "sh", "-c", f"ulimit -f 400; exec {sys.executable} -c '{BOOTSTRAP}'") as agent:
        with pytest.raises(TargetError, match="the target's disk is full") as caught:
            sent(agent, [tmp_path / "large"])
        assert "work_folder" in str(caught.value.next)
        assert files_of(tmp_path) == {}
        sent(agent, [tmp_path / "small"])
    assert list(files_of(tmp_path).values()) == [b"small"]


def test_what_does_not_fit_is_not_begun(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    missing = {"missing": [{"sha256": sha256(b"content"), "have": 1}], "stored_bytes": 0, "free_bytes": 5}
    script = f"{GREETING}; echo '{HELLO}'; echo '{json.dumps({'id': 2, 'result': missing})}'; exec cat > /dev/null"
    with session(tmp_path, "sh", "-c", script) as agent, pytest.raises(TargetError, match="has no room"):
        sent(agent, [tmp_path / "file"])


def test_the_oldest_files_make_room(agent: AgentSession, tmp_path: Path) -> None:
    names = ["old", "used", "new"]
    for name in names:
        (tmp_path / name).write_bytes(name.encode() * 1000)
    hashes = sent(agent, [tmp_path / name for name in names])
    for age, name in enumerate(reversed(names)):
        file = tmp_path / "work" / "files" / hashes[tmp_path / name]
        os.utime(file, (time.time() - 100 * age,) * 2)
    sent(agent, [tmp_path / "old"])  # its use makes it the newest
    (tmp_path / "more").write_bytes(b"more" * 1000)
    upload(agent, hashes_of([tmp_path / "more"]), cache_bytes=10_500)
    kept = {content[:3] for content in files_of(tmp_path).values()}
    assert kept == {b"old", b"new", b"mor"}
    assert evict(agent, 0, keep=[hashes[tmp_path / "new"]]).stored_bytes == 3000
    assert clean(agent) == 3000
    assert not (tmp_path / "work").exists()


def test_cleaning_removes_nothing_of_others(agent: AgentSession, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    sent(agent, [tmp_path / "file"])
    (tmp_path / "work" / "files" / "notes.txt").write_text("mine")
    (tmp_path / "work" / "files" / ("0" * 64)).symlink_to(tmp_path / "file")
    assert clean(agent) == 7
    assert (tmp_path / "file").read_bytes() == b"content"
    assert {path.name for path in (tmp_path / "work" / "files").iterdir()} == {"notes.txt", "0" * 64}


@pytest.mark.parametrize("name", ["../../escape", "a" * 63, "A" * 64, "0" * 64 + "\n", "0" * 63 + "/", 7, None])
def test_no_name_leads_out_of_the_work_folder(name: object, agent: AgentSession) -> None:
    for do in ("missing", "put", "evict"):
        item = {"sha256": name, "bytes": 1}
        values: dict[str, Any] = {"files": [item], "keep": [name], "limit_bytes": 0, "offset": 0, "data": "", **item}
        with pytest.raises(Refused) as caught:
            agent.ask_for_json(do, **values)
        assert caught.value.failure.kind == "bad_request"


@pytest.mark.parametrize("folder", ["work", "", "~nobody-of-this-name/x", "/a/../../b", "/a\0b"])
def test_a_work_folder_is_absolute(folder: str) -> None:
    channel = Channel([sys.executable, "-c", BOOTSTRAP], "here")
    with pytest.raises(Refused), agent_session(channel, "here", "python3", folder, ended):
        pass


def test_a_link_in_place_of_a_part_is_not_followed(agent: AgentSession, tmp_path: Path) -> None:
    (tmp_path / "work" / "files").mkdir(parents=True)
    (tmp_path / "private").write_bytes(b"")
    (tmp_path / "work" / "files" / f"{sha256(b'x')}.part").symlink_to(tmp_path / "private")
    with pytest.raises(Refused):
        put(agent, b"x", b"x")
    assert (tmp_path / "private").read_bytes() == b""


@pytest.mark.parametrize(
    "line",
    [
        b"", b"{", b"[]", b"7", b"null", b'{"do": "clean"}', b'{"id": 1}', b'{"id": 1, "do": 7}', b"[" * 100_000,
        b'{"id": 1, "do": "nothing"}', b'{"id": 1, "do": "probe", "files": "/x"}', b"\xff\xfe", b"9" * 5000,
        b'{"id": 1, "do": "probe", "files": ["relative"]}', b'{"id": 1, "do": "probe", "commands": [[]]}',
        b'{"id": 1, "do": "probe", "commands": [{"arguments": ["x"], "timeout_s": 1e400}]}',
        b'{"id": 1, "do": "put", "sha256": "' + b"0" * 64 + b'", "bytes": 1, "offset": 0, "data": "%"}',
        b'{"id": 1, "do": "evict", "limit_bytes": -1}', b'{"id": 1, "do": "hello", "work_folder": ["x"]}',
    ],
)  # fmt: skip
def test_a_wrong_request_is_answered_with_an_error(line: bytes) -> None:
    started = Agent()
    started.reply(b'{"id": 0, "do": "hello", "work_folder": "/tmp/never-made"}')
    assert started.reply(line)["error"]["kind"] == "bad_request"


def test_one_client_at_a_time_has_the_lock(agent: AgentSession, tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    said: list[str] = []
    with session(tmp_path) as other:
        agent.lock("ada@laptop", 0, root=str(tmp_path))
        with pytest.raises(TargetError, match="another user measures") as caught:
            other.lock("bo@desk", 0.3, said.append, root=str(tmp_path))
        assert str(caught.value.got).startswith("ada@laptop, for ")
        agent.unlock()
        other.lock("bo@desk", 5, root=str(tmp_path))
        assert not agent.ask_for_json("lock", by="ada@laptop", root=str(tmp_path))["held"]
    assert len(said) == 1
    assert "ada@laptop" in said[0]


def test_the_lock_of_a_dead_client_is_free(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    with session(tmp_path) as waiting:
        with session(tmp_path) as dying:
            assert dying.ask_for_json("lock", by="ada", root=str(tmp_path))["held"]
        waiting.lock("bo", 5, root=str(tmp_path))


def test_a_lock_file_with_anything_in_it_is_a_lock(agent: AgentSession, tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    for content in (
        b"",
        b"[" * 5000,
        b'{"by": 1, "since": "x"}',
        b'{"by": 1, "since": 1' + b"0" * 400 + b"}",
        b"\xff" * 9000,
    ):
        (tmp_path / "tmp" / "edgevit.lock").write_bytes(content)
        agent.lock("ada", 0, root=str(tmp_path))
        agent.unlock()
    (tmp_path / "tmp" / "edgevit.lock").unlink()
    (tmp_path / "tmp" / "edgevit.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Refused):
        agent.ask_for_json("lock", by="ada", root=str(tmp_path))
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, None])
def test_what_it_started_ends_with_it(number: int | None, tmp_path: Path) -> None:
    """A signal, or the end of its input, in the middle of a command."""
    pids = tmp_path / "agent", tmp_path / "child"
    script = f"echo $$ > {pids[0]}; exec {sys.executable} -c '{BOOTSTRAP}'"
    command = {"arguments": ["sh", "-c", f"echo $$ > {pids[1]}; exec sleep 60"], "timeout_s": 60}
    with ExitStack() as stack:
        agent = stack.enter_context(session(tmp_path, "sh", "-c", script))
        asking = threading.Thread(target=lambda: _ask_in_vain(agent, command))
        asking.start()
        started = [number_in(pid) for pid in reversed(pids)]
        if number is None:
            agent._channel._input.close()
        else:
            os.kill(started[1], number)
        assert all(map(is_gone, started))
        asking.join()  # before the session closes what it reads from


def _ask_in_vain(agent: AgentSession, command: dict[str, object]) -> None:
    with suppress(TargetError, OSError, ValueError):
        agent.ask_for_json("probe", commands=[command])


GREETING = "echo edgevit-python 3.11.0"
HELLO = '{"id": 1, "result": {"version": 1, "python": "3.11.0", "work_folder": "/w"}}'
GARBLED = {
    "silence": ("exit 0", "ended with 0"),
    "noise": ("yes hello", "is no Python, or the shell prints too much"),
    "a long line": ("head -c 100000 /dev/zero", "the answer is too long"),
    "an old Python": ("echo edgevit-python 3.6.9; exit 3", "the target's Python is too old"),
    "no JSON": (f"{GREETING}; yes hello", "the answer is not one of edgevit's agent"),
    "no end": (f"{GREETING}; cat /dev/zero", "the answer is too long"),
    "deep JSON": (f"{GREETING}; head -c 100000 /dev/zero | tr '\\0' '['; echo", "the answer is not one"),
    "a list": (f"{GREETING}; echo '[]'", "the answer is not one"),
    "another id": (f"""{GREETING}; echo '{HELLO.replace(": 1,", ": 2,", 1)}'""", "the answer is not one"),
    "another version": (f"""{GREETING}; echo '{HELLO.replace('"version": 1', '"version": 9')}'""", "protocol 9"),
    "a wrong type": (f"""{GREETING}; echo '{HELLO.replace('"/w"', "7")}'""", "work_folder"),
    "a relative folder": (f"""{GREETING}; echo '{HELLO.replace('"/w"', '"w"')}'""", "work_folder"),
    "one key more": (f"""{GREETING}; echo '{HELLO.replace('"python"', '"x": 1, "python"')}'""", "x: Extra inputs"),
    "an error without a kind": (f"""{GREETING}; echo '{{"id": 1, "error": {{}}}}'""", "the answer is not one"),
    "an error": (f"""{GREETING}; echo '{{"id": 1, "error": {{"kind": "x", "what": "y"}}}}'""", "the target refused"),
}


@pytest.mark.parametrize(("script", "says"), GARBLED.values(), ids=GARBLED)
def test_a_garbled_answer_is_an_error(script: str, says: str, tmp_path: Path) -> None:
    script = script if "exit" in script else f"{script}; exec cat > /dev/null"  # it takes the agent and stays
    with pytest.raises(TargetError) as caught, session(tmp_path, "sh", "-c", script):
        pass
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "missing", [[{"sha256": "0" * 64, "have": 0}], [{"sha256": "../x", "have": 0}], [{}], "x", None]
)
def test_an_answer_about_other_files_is_an_error(missing: object, tmp_path: Path) -> None:
    answer = json.dumps({"id": 2, "result": {"missing": missing, "stored_bytes": 0, "free_bytes": None}})
    (tmp_path / "file").write_bytes(b"content")
    script = f"{GREETING}; echo '{HELLO}'; echo '{answer}'; exec cat > /dev/null"
    with session(tmp_path, "sh", "-c", script) as agent, pytest.raises(TargetError):
        sent(agent, [tmp_path / "file"])


def test_an_upload_that_does_not_go_on_ends(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    missing = {"missing": [{"sha256": sha256(b"content"), "have": 0}], "stored_bytes": 0, "free_bytes": None}
    answers = [{"id": 2, "result": missing}, {"id": 3, "result": {"have": 0, "is_whole": False}}]
    script = "; ".join(
        [GREETING, f"echo '{HELLO}'", *(f"echo '{json.dumps(one)}'" for one in answers), "exec cat > /dev/null"]
    )
    with session(tmp_path, "sh", "-c", script) as agent, pytest.raises(TargetError, match="does not go on"):
        sent(agent, [tmp_path / "file"])


def test_an_agent_that_hangs_is_given_up(tmp_path: Path) -> None:
    script = f"{GREETING}; echo '{HELLO}'; cat > /dev/null; true"
    with session(tmp_path, "sh", "-c", script) as agent, pytest.raises(TargetError, match="does not answer"):
        agent.ask("clean", Frozen, timeout_s=0.2)


def test_a_wait_is_said_with_its_whole_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines that a shell prints before do not shorten it."""
    monkeypatch.setattr("edgevit.targets.agent_session.START_S", 1)
    script = "echo a; sleep 0.3; echo b; sleep 0.3; echo c; exec cat"
    with pytest.raises(TargetError) as caught, session(tmp_path, "sh", "-c", script):
        pass
    assert (caught.value.what, caught.value.got) == ("the target does not answer", "nothing for 1 s")


def test_limits_agree() -> None:
    assert 4 * protocol.LARGEST_CHUNK // 3 + 1000 < protocol.LONGEST_REQUEST
    assert uploads.CACHE_BYTES <= protocol.LARGEST_FILE
