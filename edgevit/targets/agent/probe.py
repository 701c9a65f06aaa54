"""What the machine says: files, answers of programs, and facts that Python knows."""

from __future__ import annotations

import glob
import itertools
import os
import platform
import pwd
import re
import shutil
import stat
import sys
from importlib import metadata
from typing import Any, Iterator

from edgevit.targets.agent.processes import Processes
from edgevit.targets.agent.protocol import (
    LONGEST_COMMAND_S,
    LONGEST_NAME,
    LONGEST_TEXT,
    MOST_COMMANDS,
    MOST_FILES,
    MOST_PACKAGES,
    MOST_TEXT,
    OWN_PYTHON,
    Json,
    RequestError,
    arguments_in,
    list_in,
    seconds_in,
    text_in,
    text_of,
)

ROOT = "EDGEVIT_ROOT"  # a variable of a stand-in for a machine: the folder below which its files lie
MORE_PROGRAMS = ("/usr/local/sbin", "/usr/sbin", "/sbin")  # a command over SSH often lacks them in its PATH


def probe(request: Json, work_folder: str, processes: Processes) -> Json:
    """The texts of files, the answers of commands, and facts that Python knows. What is not there is left out.

    Args:
        request: `files`, absolute patterns; `commands`, each with `arguments` and `timeout_s`; `packages`, names of
            distributions. For a stand-in of a machine: `root`, the folder below which files and absolute programs
            lie, and `path`, the PATH by which other programs are found.
    """
    root = text_in(request, "root", os.environ.get(ROOT, ""))
    path = text_in(request, "path", os.pathsep.join((os.environ.get("PATH", os.defpath), *MORE_PROGRAMS)))
    patterns = [text_of(one) for one in list_in(request, "files", MOST_FILES)]
    commands = [command_from(one) for one in list_in(request, "commands", MOST_COMMANDS)]
    packages = [text_of(one) for one in list_in(request, "packages", MOST_PACKAGES)]
    room = MOST_TEXT
    files: dict[str, str] = {}
    for name in itertools.islice(matching(root, patterns), MOST_FILES):
        text = text_of_file(root + name)
        if text is not None and len(text) <= room and len(name) <= LONGEST_NAME:
            files[name] = text
            room -= len(text)
    answers: dict[str, Json] = {}
    for arguments, timeout_s in commands:
        answer = answer_of(arguments, timeout_s, root, path, processes)
        if answer is not None and len(answer["stdout"]) + len(answer["stderr"]) <= room:
            answers[" ".join(arguments)] = answer
            room -= len(answer["stdout"]) + len(answer["stderr"])
    return {"files": files, "commands": answers, "system": system(work_folder, packages)}


def matching(root: str, patterns: list[str]) -> Iterator[str]:
    """The paths that fit absolute patterns, without the root before them."""
    for pattern in patterns:
        if not pattern.startswith("/"):
            raise RequestError("bad_request", f"the pattern {pattern!r} is not absolute")
        for found in sorted(glob.iglob(glob.escape(root) + pattern)):
            yield found[len(root) :]


def text_of_file(path: str) -> str | None:
    """The beginning of a plain file; None if it cannot be read. It does not wait for a pipe or a device."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            return None
        content = b""
        while len(content) < LONGEST_TEXT:
            block = os.read(file, LONGEST_TEXT - len(content))
            if not block:
                break
            content += block
        return content.decode("utf-8", "replace")
    except OSError:
        return None
    finally:
        os.close(file)


def answer_of(arguments: list[str], timeout_s: float, root: str, path: str, processes: Processes) -> Json | None:
    """The answer of a command; None if its program is not there, or may not be run."""
    program = _program(arguments[0], root, path)
    if program is None or not os.access(program, os.X_OK):
        return None
    try:
        return processes.run([program, *arguments[1:]], timeout_s, {**os.environ, "PATH": path, "LC_ALL": "C.UTF-8"})
    except OSError:
        return None


def _program(name: str, root: str, path: str) -> str | None:
    """The path of a command's program; None if it is not there."""
    if name == OWN_PYTHON:
        return sys.executable or None
    return root + name if os.path.isabs(name) else shutil.which(name, path=path)


def system(work_folder: str, packages: list[str]) -> Json:
    """Facts of the machine and its Python. A number that the system does not say is None."""
    memory = memory_bytes()
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "release": platform.release(),
        "python": platform.python_version(),
        "executable": sys.executable or "",
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "memory_bytes": memory.get("MemTotal"),
        "memory_free_bytes": memory.get("MemAvailable"),
        "disk_free_bytes": free_bytes(work_folder),
        "work_folder": work_folder,
        "packages": {name: version for name in packages for version in versions_of(name)},
        "libc": " ".join(platform.libc_ver()).strip(),
        "user": user(),
        "is_root": os.geteuid() == 0,
    }


def memory_bytes() -> dict[str, int]:
    """The numbers of /proc/meminfo, in bytes; empty where there is no such file."""
    rows = re.findall(r"^(\w+): +([0-9]+) kB$", text_of_file("/proc/meminfo") or "", re.MULTILINE)
    return {name: int(kib) * 1024 for name, kib in rows}


def free_bytes(folder: str) -> int | None:
    """The free bytes for this user on the disk of a folder, which need not be there yet."""
    while not os.path.isdir(folder) and os.path.dirname(folder) != folder:
        folder = os.path.dirname(folder)
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def versions_of(package: str) -> list[str]:
    """The version of a distribution, as a list; empty if it is not installed, or its record is damaged."""
    try:
        version: str | None = metadata.version(package)
    except Exception:  # noqa: BLE001 - a damaged installation is no installation
        return []
    return [version] if isinstance(version, str) else []


def user() -> str:
    """The user's name, or number where the system knows no name."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def command_from(value: Any) -> tuple[list[str], float]:
    """The arguments and the time limit of a command."""
    if not isinstance(value, dict):
        raise RequestError("bad_request", "a command is an object")
    return arguments_in(value), seconds_in(value, "timeout_s", LONGEST_COMMAND_S)
