"""Why `ssh`, or Python behind it, has failed: errors that say what to do."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

from edgevit.configs.targets import MachineTarget
from edgevit.errors import ConnectionLost, TargetError, shortened
from edgevit.targets.ssh.command import own_command, resolved_config
from edgevit.targets.target_python import LONGEST_LINE, last_line, no_python, python_has_ended

SSH_FAILED = 255  # ssh's own exit status; other numbers are those of the remote command
NOT_FOUND = (126, 127)  # of a shell

_CHANGED = re.compile(r"REMOTE HOST IDENTIFICATION HAS CHANGED|host key for .* has changed", re.IGNORECASE)
_OFFENDING = re.compile(r"^Offending \S+ key in (.+):(\d+)\s*$", re.MULTILINE)
_NO_LOGIN = r"account is (currently )?not available|account has been disabled|not allowed to (log ?in|execute)"
_METHODS = re.compile(r"Permission denied \(([\w,-]+)\)")


def failure(name: str, target: MachineTarget, status: int, stderr: str) -> TargetError:
    """The error for an `ssh` that has ended, from its exit status and its stderr."""
    if status == SSH_FAILED:
        for pattern, explain in _OF_SSH:
            if re.search(pattern, stderr, re.IGNORECASE):
                return explain(name, target, stderr)
        return ConnectionLost(
            "the SSH connection failed",
            where=name,
            got=last_line(stderr) or "ssh says nothing: the program there may have been killed",
            next=f"try {own_command('ssh', target)}",
        )
    if status in NOT_FOUND or "command not found" in stderr.lower():
        return no_python(name, target, last_line(stderr) or f"exit status {status}")
    if re.search(_NO_LOGIN, stderr, re.IGNORECASE):
        return TargetError(
            "this account may not run commands on the target",
            where=name,
            got=last_line(stderr),
            next="give the address of an account with a login shell: ssh://user@host",
        )
    by_hand = f"{own_command('ssh', target)} {shlex.quote(f'{target.python} --version')}"
    return python_has_ended(name, status, stderr, by_hand)


def _unknown_name(name: str, target: MachineTarget, stderr: str) -> TargetError:
    return ConnectionLost(
        "there is no such host", where=name, got=target.address.host, next="correct the address, or see to the network"
    )


def _refused(name: str, target: MachineTarget, stderr: str) -> TargetError:
    return ConnectionLost(
        "the host is there, but no SSH server answers",
        where=name,
        got=last_line(stderr),
        next="start the SSH server there, or correct the port: ssh://user@host:PORT",
    )


def _unreachable(name: str, target: MachineTarget, stderr: str) -> TargetError:
    return ConnectionLost(
        "the host cannot be reached", where=name, got=last_line(stderr), next="see whether it is on and in the network"
    )


def _denied(name: str, target: MachineTarget, stderr: str) -> TargetError:
    config = resolved_config(target)
    files = [file for file in config.get("identityfile", []) if Path(file).expanduser().is_file()]
    methods = _METHODS.search(stderr)
    user = target.address.user or next(iter(config.get("user", [])), "your user")
    tried = f"the keys {', '.join(files)}" if files else "no key file"
    return TargetError(
        "the host refuses your key",
        where=name,
        got=f"user {user}, {tried}, and the keys of ssh-agent; the host takes {methods[1] if methods else 'others'}",
        next=f"{own_command('ssh-copy-id', target)}, or correct the user in the address",
    )


def _changed_key(name: str, target: MachineTarget, stderr: str) -> TargetError:
    offending = _OFFENDING.search(stderr)
    return TargetError(
        "the host's key has changed: this is another machine, or it was installed anew",
        where=name,
        got=f"another key in {offending[1]}, line {offending[2]}" if offending else "another key in known_hosts",
        next=f"if you know why: {_forget(target)}, then {own_command('ssh', target)}",
    )


def _forget(target: MachineTarget) -> str:
    """The command that removes a host's key. Nothing of what the host printed is in it."""
    config = resolved_config(target)
    host = next(iter(config.get("hostname", [])), target.address.host)
    port = next(iter(config.get("port", [])), str(target.address.port or 22))
    known = next(iter(config.get("hostkeyalias", [])), host if port == "22" else f"[{host}]:{port}")
    files = shlex.split(next(iter(config.get("userknownhostsfile", [])), ""))
    file = ["-f", str(Path(files[0]).expanduser())] if files else []
    return shlex.join(["ssh-keygen", *file, "-R", known])


def _unknown_key(name: str, target: MachineTarget, stderr: str) -> TargetError:
    return TargetError(
        "the host's key is not known yet",
        where=name,
        got=last_line(stderr),
        next=f"{own_command('ssh', target)} once, and compare the fingerprint that it shows with the host's own",
    )


def _wrong_config(name: str, target: MachineTarget, stderr: str) -> TargetError:
    return TargetError(
        "your SSH config has a mistake", where=name, got=_first_line(stderr), next="correct it (man ssh_config)"
    )


def _first_line(text: str) -> str:
    return shortened(next((line.strip() for line in text.splitlines() if line.strip()), ""), LONGEST_LINE)


# What ssh prints → the error. The first that fits counts.
_OF_SSH: tuple[tuple[str, Callable[[str, MachineTarget, str], TargetError]], ...] = (
    (_CHANGED.pattern, _changed_key),
    (r"Host key verification failed|No \S+ host key is known", _unknown_key),
    (r"Could not resolve hostname", _unknown_name),
    (r"Connection refused", _refused),
    (r"timed out|No route to host|Network is unreachable|Host is down", _unreachable),
    (r"Permission denied \(|Too many authentication failures|no such identity", _denied),
    (r"Bad configuration option|terminating, \d+ bad configuration|Bad owner or permissions", _wrong_config),
)
