"""The options of a target in targets.yaml: a machine that is reached over SSH, or this one."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from edgevit.artifacts import Frozen

LOCAL_TARGETS = ("local-cpu", "local-gpu")  # built in; no file defines them
TARGET_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
LONGEST_TARGET_NAME = 64
MOST_TARGETS = 1000
LONGEST_VALUE = 500  # characters of a command, a folder, a name
HIGHEST_PORT = 65535

LOCAL_CPU, LOCAL_GPU = LOCAL_TARGETS
THIS_HOST = "local"  # in place of an address: this machine
INSTALLED = "installed"  # the ONNX Runtime of the target's own Python
TensorrtChoice = Literal["trtexec", "python"]

_ADDRESS = re.compile(r"ssh://(?:(?P<user>[^@/]*)@)?(?P<host>\[[^\]/]*\]|[^:/@\[\]]*)(?::(?P<port>[^/]*))?/?")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\$?")
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_.])?")
_IPV6 = re.compile(r"[0-9A-Fa-f:.]+(?:%[A-Za-z0-9_.-]+)?")
_VERSION = re.compile(r"[0-9]{1,4}(?:\.[0-9]{1,4}){2}")
_WITHOUT_VARIABLES = re.compile("-[bBdiOPqRsSuvx]*[EI]")  # options of Python: PYTHONPATH does not hold
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True)
class SshAddress:
    """The parts of `ssh://[user@]host[:port]`. `host` may be a name in the user's SSH config."""

    user: str | None
    host: str
    port: int | None


def ssh_address(text: str) -> SshAddress:
    """The parts of an address. Raises ValueError if it is not one, or if it holds a password."""
    matched = _ADDRESS.fullmatch(text)
    if matched is None:
        raise ValueError(f"an address is ssh://[user@]host[:port], or {THIS_HOST} for this machine")
    user, host, port = matched["user"], matched["host"], matched["port"]
    if user is not None and ":" in user:
        raise ValueError("an address holds no password: SSH uses your keys")
    if user is not None and not _USER.fullmatch(user):
        raise ValueError("the user of an address has letters, digits, '_', '-' and '.'")
    bare = host.strip("[]")
    if not (_IPV6 if host.startswith("[") else _HOST).fullmatch(bare):
        raise ValueError("the host of an address is a name, an IPv4 address, or an IPv6 address in [brackets]")
    if port is not None and not (re.fullmatch("[0-9]{1,5}", port) and 1 <= int(port) <= HIGHEST_PORT):
        raise ValueError(f"the port of an address is a number from 1 to {HIGHEST_PORT}")
    return SshAddress(user, bare, None if port is None else int(port))


def _host(text: str) -> str:
    if text != THIS_HOST:
        ssh_address(text)
    return text


def _python(text: str) -> str:
    try:
        words = shlex.split(text)
    except ValueError:
        raise ValueError("a quotation mark is not closed") from None
    if not words or words[0].startswith("-"):
        raise ValueError("a command is expected, such as python3 or /usr/bin/python3.10")
    if option := next(filter(_WITHOUT_VARIABLES.match, _options_of_python(words)), None):
        raise ValueError(f"leave {option} out: with it, Python does not find the packages that edgevit brings along")
    return text


def _options_of_python(words: list[str]) -> list[str]:
    """The words behind the one that names a Python, which an emulator or another program may start."""
    named = [place for place, word in enumerate(words) if re.search("(python|pypy)[^/]*$", word)]
    return words[max(named, default=0) + 1 :]


def _folder(text: str) -> str:
    parts = text.split("/")
    if parts[0] not in ("", "~") or len(parts) < 2 or ".." in parts or not any(parts[1:]):
        raise ValueError("a folder below / or ~/ is expected, without '..'")
    return text


def _onnxruntime(text: str) -> str:
    if text != INSTALLED and not _VERSION.fullmatch(text):
        raise ValueError(f"a version is expected, such as 1.24.4, or {INSTALLED}")
    return text


def _printable(text: str) -> str:
    if _CONTROLS.search(text):
        raise ValueError("there is a control character in it")
    return text


_Text = Annotated[str, Field(min_length=1, max_length=LONGEST_VALUE), AfterValidator(_printable)]


def check_target_name(name: str) -> str:
    """The name, if it is one that a target can have. Raises ValueError otherwise."""
    if len(name) > LONGEST_TARGET_NAME or not re.fullmatch(TARGET_NAME, name):
        raise ValueError(
            f"the name of a target has at most {LONGEST_TARGET_NAME} letters, digits, '.', '_' and '-', and begins "
            "with a letter or a digit"
        )
    return name


TargetName = Annotated[str, AfterValidator(check_target_name)]


class MachineTarget(Frozen):
    """A machine whose agent runs models. It is reached over SSH, or it is this one."""

    host: Annotated[_Text, AfterValidator(_host)] = Field(
        description="Address, `ssh://[user@]host[:port]`. The host may be a name in your SSH config. `local`: this "
        "machine."
    )
    runtime: Literal["onnxruntime", "tensorrt"] | None = Field(
        None, description="Runtime that models are meant for there. `devices check` says whether it is there."
    )
    power_mode: _Text | None = Field(
        None, description="Name of the power mode that the board should be in. `devices check` compares it."
    )
    clocks: Literal["leave", "lock"] = Field(
        "leave", description="Whether the board's clocks should be locked. `devices check` looks at them."
    )
    python: Annotated[_Text, AfterValidator(_python)] = Field(
        "python3", description="Command that starts Python there, 3.8 or later."
    )
    work_folder: Annotated[_Text, AfterValidator(_folder)] = Field(
        "~/.cache/edgevit", description="Folder for edgevit's files there."
    )
    onnxruntime: Annotated[_Text, AfterValidator(_onnxruntime)] | None = Field(
        None,
        description="Version of ONNX Runtime that edgevit brings along, such as 1.24.4; by default that of this "
        "machine. `installed`: that of the Python there.",
    )
    tensorrt: TensorrtChoice | None = Field(
        None,
        description="What uses TensorRT there: `trtexec`, or `python` for its Python module. By default, trtexec "
        "builds and times engines and the module computes their outputs, as far as they are there.",
    )

    @property
    def is_here(self) -> bool:
        """Whether it is this machine."""
        return self.host == THIS_HOST

    @property
    def address(self) -> SshAddress:
        """The parts of `host`. Raises ValueError for this machine, which has no address."""
        return ssh_address(self.host)
