"""`edgevit devices`: the journey of a user, over a real SSH server where there is one."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

from edgevit.cli import app, main
from edgevit.cli.devices import devices
from tests.targets.ssh_host import SshHost, is_gone, needs_sshd, number_in
from tests.targets.standin import STANDINS, build

COMMANDS = [str(command.name) for command in devices.registered_commands]


@pytest.fixture
def host(server: SshHost, monkeypatch: pytest.MonkeyPatch) -> SshHost:
    monkeypatch.setenv("PATH", server.path)
    return server


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "config" / "edgevit" / "targets.yaml"


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str, str]:
    """The exit status, stdout and stderr of `edgevit devices …`."""
    monkeypatch.setattr(sys, "argv", ["edgevit", "devices", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    assert "\x1b" not in said.out + said.err
    return int(ended.value.code or 0), said.out, said.err


@needs_sshd
def test_the_journey(
    host: SshHost, settings: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = ["--work-folder", str(host.home / "work")]
    assert run(capsys, monkeypatch, "add", "pi", host.address, "--python", sys.executable, *folder) == (
        0,
        f"pi is {host.address}, in {settings}\n",
        "next: edgevit devices check pi\n",
    )
    status, listed, _ = run(capsys, monkeypatch, "list")
    assert status == 0
    assert [line.split()[:2] for line in listed.splitlines()] == [
        ["target", "where"], ["local-cpu", "this"], ["local-gpu", "this"], ["pi", host.address],
    ]  # fmt: skip
    status, shown, _ = run(capsys, monkeypatch, "show", "pi", "--json")
    assert json.loads(shown)["python"] == sys.executable
    status, checked, _ = run(capsys, monkeypatch, "check", "pi")
    assert status in (0, 1)
    states = {line.split()[0] for line in checked.splitlines()[1:] if re.match(r"\w+ {2}", line)}
    assert (status == 1) == bool(states & {"missing", "broken"}), checked
    assert re.search(rf"^ok +python +{'{}.{}.{}'.format(*sys.version_info[:3])}", checked, re.MULTILINE)
    table = [line for line in checked.splitlines() if not re.match(r"[\w ]+: ", line)]  # below are commands to paste
    assert all(len(line) <= 80 for line in table), checked
    status, checked, _ = run(capsys, monkeypatch, "check", "pi", "--json")
    answer = json.loads(checked)
    assert answer["target"] == "pi"
    assert answer["facts"]["system"]["work_folder"] == str(host.home / "work")
    assert not (host.home / "work").exists()  # a check writes nothing there
    assert run(capsys, monkeypatch, "remove", "pi")[0] == 0
    status, _, error = run(capsys, monkeypatch, "check", "pi")
    assert status == 2
    assert "there is no target 'pi'" in error


@pytest.fixture
def own_lock(host: SshHost, tmp_path: Path) -> Iterator[None]:
    """The host's python3 locks a file of the test's own in place of that of this machine."""
    (tmp_path / "tmp").mkdir()
    python = host.folder / "board" / "python3"
    before = python.read_text()
    host.script("board/python3", f"export EDGEVIT_ROOT='{tmp_path}'", f'exec {sys.executable} "$@"')
    yield
    python.write_text(before)


@needs_sshd
def test_clean_removes_edgevits_files_alone(
    host: SshHost, own_lock: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = host.home / "a folder" / "files"
    files.mkdir(parents=True)
    (files / ("a" * 64)).write_bytes(bytes(2_200_000))
    (files / "notes.txt").write_text("mine")
    run(capsys, monkeypatch, "add", "pi", host.address, "--work-folder", str(files.parent))
    assert run(capsys, monkeypatch, "clean", "pi") == (0, "2.1 MiB removed on pi\n", "")
    assert [file.name for file in files.iterdir()] == ["notes.txt"]
    status, cleaned, _ = run(capsys, monkeypatch, "clean", "pi", "--json")
    assert (status, json.loads(cleaned)) == (0, {"target": "pi", "removed_bytes": 0})


@needs_sshd
def test_the_guide_word_by_word(
    host: SshHost, own_lock: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "devices.md").read_text(encoding="utf-8")
    lines = [
        line
        for text in re.findall(r"^```sh\n(.*?)^```$", guide, re.MULTILINE | re.DOTALL)
        for line in text.splitlines()
    ]
    lines = [line for line in lines if line.startswith("edgevit devices ")]
    assert [line.split()[2] for line in lines] == ["add", "list", "show", "check", "clean", "remove"]
    for line in lines:
        words = shlex.split(line.replace("ssh://me@board.local", host.address))
        assert run(capsys, monkeypatch, *words[2:])[0] in ((0, 1) if "check" in words else (0,)), line


@needs_sshd
def test_a_stand_in_board_over_ssh(
    host: SshHost, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The programs and files of a stand-in are found as those of a board are: by PATH, and below its own root."""
    board = build(STANDINS["jetpack6-orin-nano"], tmp_path / "board")
    lines = f"export EDGEVIT_ROOT='{board.root}' PATH='{board.path}:/usr/bin:/bin'", f'exec {sys.executable} "$@"'
    python = host.script("python-of-board", *lines)
    asked = ["--power-mode", "7W", "--clocks", "lock"]
    run(capsys, monkeypatch, "add", "orin", host.address, "--python", str(python), *asked)
    status, answer, _ = run(capsys, monkeypatch, "check", "orin", "--json")
    assert status == 1
    facts = json.loads(answer)["facts"]
    assert (facts["kind"], facts["module"]) == ("jetson", "p3767-0005")
    assert facts["telemetry"]["rails"]  # tegrastats never ends by itself, and its lines came all the same
    findings = {finding["name"]: finding for finding in json.loads(answer)["findings"]}
    assert findings["power mode asked"]["state"] == "missing"
    assert "clocks asked" not in findings  # they are locked there
    status, checked, _ = run(capsys, monkeypatch, "check", "orin")
    assert status == 1
    assert "power mode asked: " in checked


def test_this_machine_is_checked_too(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    status, checked, _ = run(capsys, monkeypatch, "check", "local-cpu", "--json")
    assert status in (0, 1)
    assert json.loads(checked)["facts"]["system"]["machine"] == os.uname().machine


@needs_sshd
def test_a_check_that_fails_ends_with_2(
    host: SshHost, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(capsys, monkeypatch, "add", "pi", host.address, "--python", "python9.9")
    status, out, error = run(capsys, monkeypatch, "check", "pi")
    assert (status, out) == (2, "")
    assert error.startswith("error: pi: there is no Python at this command\n  got: python9.9: ")


@needs_sshd
def test_ctrl_c_during_a_check(host: SshHost, tmp_path: Path) -> None:
    """A program of the host is slow: Ctrl-C ends the check, and the program."""
    slow = host.script("board/vcgencmd", "echo $$ > $HOME/slow", "exec sleep 60")
    python = host.script("python-with-pid", "echo $$ > $HOME/agent", f'exec {sys.executable} "$@"')
    edgevit = [sys.executable, "-m", "edgevit", "devices"]
    subprocess.run([*edgevit, "add", "pi", host.address, "--python", str(python)], check=True, capture_output=True)
    check = subprocess.Popen([*edgevit, "check", "pi"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    started = [number_in(host.home / name) for name in ("slow", "agent")]
    check.send_signal(signal.SIGINT)
    _, error = check.communicate(timeout=20)
    assert check.returncode == 130
    assert error.endswith("stopped; nothing was written\n")
    assert "Traceback" not in error
    assert all(map(is_gone, started))
    slow.unlink()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["add", "pi", "board"], "ADDRESS: an address is ssh://"),
        (
            ["add", "pi", "ssh://me:secret@board"],
            "ADDRESS: an address holds no password: SSH uses your keys\n  got: ssh://me:…@board",
        ),
        (["add", "pi", "ssh://board:0000070000"], "the port of an address is a number from 1 to 65535"),
        (["add", "pi", "ssh://board", "--python", "'"], "--python: a quotation mark is not closed"),
        (["add", "pi", "ssh://board", "--python", "python3 -I"], "--python: leave -I out: with it, Python does not"),
        (
            ["add", "pi", "ssh://board", "--python", "qemu -E A=b -L root root/python3.11 -sE"],
            "--python: leave -sE out",
        ),
        (["add", "pi", "ssh://board", "--work-folder", "x"], "--work-folder: a folder below / or ~/"),
        (["add", "pi", "ssh://board", "--runtime", "torch"], "--runtime: "),
        (["add", "pi", "ssh://board", "--clocks", "lok"], "next: Did you mean 'lock'?"),
        (["add", "local-cpu", "ssh://board"], "'local-cpu' is built in"),
        (["add", "\x1b[31m", "ssh://board"], "this is no name of a target"),
        (["show", "local-cpus"], "next: Did you mean 'local-cpu'?"),
        (["remove", "local-cpu"], "there is no target 'local-cpu'"),
        (["check", "nothing"], "there is no target 'nothing'"),
        (["clean", "nothing"], "there is no target 'nothing'"),
    ],
)
def test_what_is_wrong_is_said(
    arguments: list[str], says: str, settings: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    status, _, error = run(capsys, monkeypatch, *arguments)
    assert status == 2
    assert says in error
    assert not settings.exists()


def test_a_project_has_its_own_file(
    tmp_path: Path, settings: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(capsys, monkeypatch, "add", "pi", "ssh://pi", "--project", "--power-mode", "25W")[0] == 0
    assert (tmp_path / "targets.yaml").read_text() == "pi:\n  host: ssh://pi\n  power_mode: 25W\n"
    assert not settings.exists()
    assert run(capsys, monkeypatch, "remove", "pi")[0] == 2
    assert run(capsys, monkeypatch, "remove", "pi", "--project")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["devices", "chek", "pi"], "Did you mean 'check'?"),
        (["devices", "xyz"], "It has: add, list, show, check, calibrate, clean, remove."),
        (["device"], "Did you mean 'devices'?"),
    ],
)
def test_a_wrong_command_is_answered_with_the_right_one(arguments: list[str], says: str) -> None:
    answer = CliRunner(env={"COLUMNS": "80", "TERM": "dumb", "NO_COLOR": "1"}).invoke(app, arguments)
    assert answer.exit_code == 2
    assert says in " ".join(answer.stderr.replace("│", " ").split())


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example_in_80_columns(command: str) -> None:
    answer = CliRunner(env={"COLUMNS": "80", "TERM": "dumb", "NO_COLOR": "1"}).invoke(
        app, ["devices", command, "--help"]
    )
    assert answer.exit_code == 0
    assert f"Example: edgevit devices {command}" in answer.stdout
    assert all(len(line) <= 80 for line in answer.stdout.splitlines())
    assert "<bool>" not in answer.stdout
    group = typer.main.get_command(app).commands["devices"]  # type: ignore[attr-defined]
    assert any("--json" in option.opts for option in group.commands[command].params)
