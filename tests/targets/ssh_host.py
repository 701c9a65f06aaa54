"""An SSH server of a test's own: OpenSSH on the loopback interface, with its own keys, config and home folder."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgevit.configs import MachineTarget
from edgevit.targets.named import NamedTarget

SSHD = shutil.which("sshd", path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin")))
SSH = shutil.which("ssh")
needs_sshd = pytest.mark.skipif(
    sys.platform != "linux" or SSHD is None or SSH is None,
    reason="needs an SSH server on Linux (apt-get install openssh-server)",
)
STARTS = 5
STARTED_S = 20


class SshHost:
    """A server in a folder.

    Attributes:
        home: the home folder that commands have there.
        port: where it listens.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.home, self.port = folder, folder / "home", 0
        self._process: subprocess.Popen[bytes] | None = None
        self.home.mkdir()
        (folder / "bin").mkdir()
        (folder / "board").mkdir()
        for name in ("host_key", "user_key", "other_key"):
            key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
            subprocess.run(key, check=True)
        self.accept("user_key")
        client = folder / "client_config"
        client.write_text(
            f"IdentityFile {folder}/user_key\nIdentitiesOnly yes\nIdentityAgent none\n"
            f"UserKnownHostsFile {folder}/known_hosts\nGlobalKnownHostsFile /dev/null\n"
        )
        # The client of the tests reads no file of the user's.
        self.script("bin/ssh", f'exec {SSH} -F {client} "$@"')
        self.script("board/python3", f'exec {sys.executable} "$@"')

    @property
    def address(self) -> str:
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}"

    @property
    def path(self) -> str:
        """A PATH by which `ssh` is the client of the tests."""
        return f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"

    def target(self, python: str = sys.executable, **settings: str) -> NamedTarget:
        settings = {"host": self.address, "work_folder": str(self.home / "work"), **settings}
        return NamedTarget("board", MachineTarget.model_validate({"python": python, **settings}))

    def script(self, name: str, *lines: str) -> Path:
        """A shell script in the server's folder."""
        script = self.folder / name
        script.write_text("\n".join(["#!/bin/sh", *lines, ""]))
        script.chmod(0o755)
        return script

    def accept(self, key: str | None) -> None:
        """Let a key in, and no other."""
        text = "" if key is None else (self.folder / f"{key}.pub").read_text()
        (self.folder / "authorized_keys").write_text(text)

    def know(self, key: str | None = "host_key") -> None:
        """Write a key for the server into the client's known hosts; with None, no key."""
        text = "" if key is None else f"[127.0.0.1]:{self.port} {(self.folder / f'{key}.pub').read_text()}"
        (self.folder / "known_hosts").write_text(text)

    def start(self) -> None:
        for _ in range(STARTS):
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                self.port = free.getsockname()[1]
            self._write_config()
            if os.geteuid() == 0:
                Path("/run/sshd").mkdir(exist_ok=True)  # the service makes it; a container may have no services
            command = [str(SSHD), "-D", "-e", "-f", str(self.folder / "config")]
            with (self.folder / "log").open("wb") as log:
                self._process = subprocess.Popen(command, stderr=log, stdout=log)
            if self._answers():
                self.know()
                return
        pytest.fail(f"the SSH server does not start: {(self.folder / 'log').read_text()}")

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def _answers(self) -> bool:
        end = time.monotonic() + STARTED_S
        while self._process is not None and self._process.poll() is None and time.monotonic() < end:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1) as line:
                    return line.recv(4) == b"SSH-"
            except OSError:
                time.sleep(0.02)
        self.stop()
        return False

    def _write_config(self) -> None:
        path = f"{self.folder / 'board'}:/usr/local/bin:/usr/bin:/bin"
        (self.folder / "config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {self.folder}/host_key\nPidFile none\n"
            f"AuthorizedKeysFile {self.folder}/authorized_keys\nStrictModes no\nUsePAM no\nMaxStartups 100\n"
            f"PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n"
            f"SetEnv HOME={self.home} PATH={path}\n"
        )


@contextmanager
def ssh_host(folder: Path) -> Iterator[SshHost]:
    """A running server whose files are in `folder`."""
    host = SshHost(folder)
    try:
        host.start()
        yield host
    finally:
        host.stop()


def is_gone(process: int, within_s: float = 10) -> bool:
    """Whether a process ends in time. A zombie that nobody has collected yet has ended."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def number_in(file: Path, within_s: float = 20) -> int:
    """The number that a process writes into a file, as soon as it is there."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if file.exists() and (text := file.read_text().strip()):
            return int(text)
        time.sleep(0.02)
    pytest.fail(f"{file} was not written")
