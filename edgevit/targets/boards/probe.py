"""What a machine's agent is asked to read, and the typed answer.

The agent reads files by glob pattern and runs commands without a shell. Its answer is one JSON object:

    files      path → text. A file that is missing or unreadable is absent. Longer texts are cut.
    commands   the arguments joined by spaces → status, stdout, stderr. A command whose program is missing is absent.
               `status` is null after a timeout; stdout and stderr then hold the text printed until then.
    system     facts that Python itself knows: see `System`.

For tests, a request may name a folder `root`, below which the files are read, and a `path`, the PATH by which programs
are found. The keys of `files` are without the root.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from edgevit.errors import TargetError, shortened
from edgevit.targets.agent.protocol import (
    LONGEST_NAME,
    LONGEST_TEXT,
    MOST_COMMANDS,
    MOST_FILES,
    MOST_PACKAGES,
    MOST_TEXT,
)

MOST_CPUS = 8_192
MOST_BYTES = 2**60

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class ProbedCommand:
    """A command for the agent to run, without a shell."""

    arguments: tuple[str, ...]
    timeout_s: float = 5

    @property
    def name(self) -> str:
        """The key of its answer in `Probe.commands`."""
        return " ".join(self.arguments)


@dataclass(frozen=True)
class CommandAnswer:
    """The answer of a command. `status` is None after a timeout."""

    status: int | None
    stdout: str
    stderr: str


@dataclass(frozen=True)
class System:
    """Facts from the standard library of the machine's Python.

    Attributes:
        machine: the processor, as `platform.machine()` names it: x86_64, aarch64.
        system: the operating system: Linux.
        release: the kernel's release.
        python: the version of the Python that runs the agent, such as 3.10.12.
        executable: the path of that Python.
        cpus: processors that the agent may use.
        memory_bytes: MemTotal of /proc/meminfo; None where the system does not say.
        memory_free_bytes: MemAvailable of /proc/meminfo; None where the system does not say.
        disk_free_bytes: free bytes for this user on the disk of the work folder; None where the system does not say.
        work_folder: the folder in which the agent keeps its files.
        packages: distribution → version, of the packages that edgevit can use there.
        libc: C library and version, such as `glibc 2.35`; empty where Python does not know it (musl).
        user: the user's name.
        is_root: whether the user is root.
    """

    machine: str
    system: str
    release: str
    python: str
    executable: str
    cpus: int
    memory_bytes: int | None
    memory_free_bytes: int | None
    disk_free_bytes: int | None
    work_folder: str
    packages: Mapping[str, str]
    libc: str
    user: str
    is_root: bool

    @property
    def onnxruntime(self) -> tuple[str, str] | None:
        """Distribution and version of the ONNX Runtime that is installed; None if there is none."""
        names = (name for name in ("onnxruntime", "onnxruntime-gpu") if name in self.packages)
        return next(((name, self.packages[name]) for name in names), None)


@dataclass(frozen=True)
class Probe:
    """Everything that the agent read, in one moment."""

    files: Mapping[str, str]
    commands: Mapping[str, CommandAnswer]
    system: System


def probe_from_json(answer: object, where: str) -> Probe:
    """The agent's answer with its types and sizes checked. The answer comes from another machine: it may hold anything.

    Args:
        answer: the decoded JSON.
        where: the target's name, for errors.

    Raises:
        TargetError: a key, a type or a size is wrong.
    """
    reader = _Reader(where)
    parts = reader.record(answer, "the probe", ("files", "commands", "system"))
    files = reader.table(parts["files"], "files", MOST_FILES, reader.text)
    commands = reader.table(parts["commands"], "commands", MOST_COMMANDS, reader.command)
    printed = sum(len(command.stdout) + len(command.stderr) for command in commands.values())
    if sum(map(len, files.values())) + printed > MOST_TEXT:
        raise reader.error("the probe", "too much text", f"at most {MOST_TEXT:,} characters")
    return Probe(files, commands, reader.system(parts["system"]))


class _Reader:
    """Reads checked values. Every error names the target and the place in the answer."""

    def __init__(self, where: str) -> None:
        self.where = where

    def system(self, value: object) -> System:
        facts = self.record(value, "system", tuple(field.name for field in fields(System)))

        def text(key: str) -> str:
            return self.name(facts[key], f"system.{key}")

        def number(key: str) -> int | None:
            return self.number(facts[key], f"system.{key}", MOST_BYTES)

        cpus = self.number(facts["cpus"], "system.cpus", MOST_CPUS)
        if not cpus:
            raise self.error("system.cpus", facts["cpus"], "at least 1")
        if not isinstance(facts["is_root"], bool):
            raise self.error("system.is_root", facts["is_root"], "true or false")
        return System(
            machine=text("machine"),
            system=text("system"),
            release=text("release"),
            python=text("python"),
            executable=text("executable"),
            cpus=cpus,
            memory_bytes=number("memory_bytes"),
            memory_free_bytes=number("memory_free_bytes"),
            disk_free_bytes=number("disk_free_bytes"),
            work_folder=text("work_folder"),
            packages=self.table(facts["packages"], "system.packages", MOST_PACKAGES, self.name),
            libc=text("libc"),
            user=text("user"),
            is_root=facts["is_root"],
        )

    def command(self, value: object, place: str) -> CommandAnswer:
        parts = self.record(value, place, ("status", "stdout", "stderr"))
        status = parts["status"]
        if status is not None and (isinstance(status, bool) or not isinstance(status, int) or abs(status) > 2**31):
            raise self.error(f"{place}: status", status, "an exit status, or null")
        return CommandAnswer(status, self.text(parts["stdout"], place), self.text(parts["stderr"], place))

    def record(self, value: object, place: str, keys: tuple[str, ...]) -> dict[str, Any]:
        if not isinstance(value, dict) or set(value) != set(keys):
            got = sorted(map(str, value)) if isinstance(value, dict) else type(value).__name__
            raise self.error(place, got, f"an object with {', '.join(keys)}")
        return value

    def table(self, value: object, place: str, most: int, read: Callable[[object, str], _Value]) -> dict[str, _Value]:
        if not isinstance(value, dict) or len(value) > most:
            got = f"{len(value):,} entries" if isinstance(value, dict) else type(value).__name__
            raise self.error(place, got, f"an object of at most {most:,} entries")
        return {self.name(key, place): read(entry, f"{place}: {shortened(key)}") for key, entry in value.items()}

    def text(self, value: object, place: str) -> str:
        if not isinstance(value, str) or len(value) > LONGEST_TEXT:
            got = f"{len(value):,} characters" if isinstance(value, str) else type(value).__name__
            raise self.error(place, got, f"text of at most {LONGEST_TEXT:,} characters")
        return value

    def name(self, value: object, place: str) -> str:
        if not isinstance(value, str) or len(value) > LONGEST_NAME:
            got = f"{len(value):,} characters" if isinstance(value, str) else type(value).__name__
            raise self.error(place, got, f"text of at most {LONGEST_NAME:,} characters")
        return value

    def number(self, value: object, place: str, most: int) -> int | None:
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
            raise self.error(place, value, f"a whole number from 0 to {most:,}, or null")
        return value

    def error(self, place: str, got: object, expected: str) -> TargetError:
        return TargetError(
            f"the machine's answer is not a probe: {place}", where=self.where, got=shortened(got), expected=expected
        )
