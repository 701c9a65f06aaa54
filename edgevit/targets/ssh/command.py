"""The command line of the system's `ssh`. The user's config, jump hosts, agent and known hosts hold."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgevit.configs.targets import MachineTarget
from edgevit.targets.target_python import python_words

CONNECT_S = 10
# Nothing is asked, since no terminal answers; a dead line is noticed within 45 seconds. Host keys are checked as the
# user has it. Options of the user's config that would change what runs, or fail on a second connection, are off.
OPTIONS = {
    "BatchMode": "yes",
    "ConnectTimeout": str(CONNECT_S),
    "ServerAliveInterval": "15",
    "ServerAliveCountMax": "3",
    "ClearAllForwardings": "yes",
    "ForwardX11": "no",
    "PermitLocalCommand": "no",
    "RemoteCommand": "none",
    "RequestTTY": "no",
    "LogLevel": "INFO",
}
ENVIRONMENT = {"SSH_ASKPASS_REQUIRE": "never"}
PREFIX = "edgevit-ssh-"  # of the folder of a socket
ABANDONED_S = 3600  # after so long, an empty folder belongs to a process that was killed
LONGEST_SOCKET = 100  # characters of the path of a socket; most systems allow 104
RANDOM_ENDING = 20  # characters that ssh adds while it makes the socket


@contextmanager
def control_socket(target: MachineTarget) -> Iterator[Path]:
    """The path of a socket, in a private folder, through which commands share one connection. It is closed at the end.

    The first command of the block makes the connection.
    """
    parent = _plain_folder()
    _remove_abandoned(Path(parent))
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    socket = folder / "s"
    try:
        yield socket
        if socket.exists():
            _close_connection(target, socket)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def ssh_command(target: MachineTarget, socket: Path, remote: str) -> list[str]:
    """The arguments of `ssh` that run a command of a POSIX shell there."""
    sharing = {"ControlMaster": "auto", "ControlPath": str(socket), "ControlPersist": "no"}
    return [*_program({**OPTIONS, **sharing}), *_destination(target), remote]


def python_command(python: str, program: str) -> str:
    """The command line that runs a program with a Python there (see `python_words`). Words are quoted for the shell."""
    return " ".join(["exec", *map(_quoted, python_words(python)), "-c", shlex.quote(program)])


def resolved_config(target: MachineTarget) -> dict[str, list[str]]:
    """What the user's SSH config says of the host, by lower-case keyword; empty if ssh does not say it."""
    command = [*_program({}), "-G", *_destination(target)]
    try:
        answer = subprocess.run(command, capture_output=True, timeout=CONNECT_S, stdin=subprocess.DEVNULL, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    config: dict[str, list[str]] = {}
    for line in answer.stdout.decode("utf-8", "replace").splitlines():
        keyword, _, value = line.partition(" ")
        config.setdefault(keyword, []).append(value)
    return config


def own_command(program: str, target: MachineTarget) -> str:
    """A command for the user's own shell, such as `ssh -p 2222 user@host`."""
    address = target.address
    user = f"{address.user}@" if address.user else ""
    port = ["-p", str(address.port)] if address.port else []
    return shlex.join([program, *port, f"{user}{address.host}"])


def _program(options: dict[str, str]) -> list[str]:
    return ["ssh", *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]


def _destination(target: MachineTarget) -> list[str]:
    address = target.address
    user = ["-l", address.user] if address.user else []
    port = ["-p", str(address.port)] if address.port else []
    return [*user, *port, "--", address.host]


def _quoted(word: str) -> str:
    return f'"$HOME"/{shlex.quote(word[2:])}' if word.startswith("~/") else shlex.quote(word)


def _plain_folder() -> str:
    """The folder of temporary files; /tmp if its path is too long for a socket, or has a character that ssh reads."""
    folder = tempfile.gettempdir()
    longest = len(os.path.join(folder, f"{PREFIX}12345678", "s")) + RANDOM_ENDING
    is_plain = re.fullmatch(r"[A-Za-z0-9/._+,:@-]+", folder)
    return folder if is_plain and longest <= LONGEST_SOCKET else "/tmp"


def _remove_abandoned(parent: Path) -> None:
    """Remove the empty folders that killed processes of this user have left."""
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):
            state = folder.lstat()
            if state.st_uid == os.geteuid() and time.time() - state.st_mtime > ABANDONED_S:
                folder.rmdir()


def _close_connection(target: MachineTarget, socket: Path) -> None:
    command = [*_program({"ControlPath": str(socket)}), "-O", "exit", *_destination(target)]
    with suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(command, capture_output=True, timeout=CONNECT_S, stdin=subprocess.DEVNULL, check=False)
