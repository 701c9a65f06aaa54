"""TensorRT on a machine: what builds and times engines there, and what computes their outputs.

Two programs speak one protocol, which is trtexec's: its options (`trtexec/commands.py`), files and log
(`trtexec/answers.py`). One is trtexec. The other is `runtimes/tensorrt_program.py`, with TensorRT's Python module.
Outputs come from the worker with that module where it is there, and from trtexec elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgevit.configs.targets import TensorrtChoice
from edgevit.errors import TargetError
from edgevit.targets.boards import HostFacts
from edgevit.targets.boards.versions import NEWEST_TENSORRT, tensorrt_release, version_numbers


@dataclass(frozen=True)
class TensorrtTools:
    """How engines are used on a machine.

    Attributes:
        version: of its TensorRT.
        full_version: with all numbers that the machine tells of it.
        trtexec: the path or name of trtexec; None where the Python module builds and times engines.
        has_module: whether the Python module computes outputs.
    """

    version: str
    full_version: str
    trtexec: str | None
    has_module: bool

    @property
    def name(self) -> str:
        """The program that builds and times, for people."""
        return "trtexec" if self.trtexec is not None else "TensorRT's Python module"

    @property
    def versions(self) -> dict[str, str | None]:
        """For a fingerprint. The program counts: its latencies are taken in another way than trtexec's."""
        own: dict[str, str | None] = {"tensorrt": self.version, "tensorrt_full": self.full_version}
        return own if self.trtexec is not None else {**own, "tensorrt_by": "python"}


def tools_of(facts: HostFacts, choice: TensorrtChoice | None, where: str) -> TensorrtTools:
    """The tools that a machine has, or those of them that are asked for.

    trtexec builds and times where it is there. The module of another version does not load its engines, so it then
    computes no outputs.

    Raises:
        TargetError: what is asked for is not there, or its TensorRT is too old or too new.
    """
    module = None if choice == "trtexec" else facts.tensorrt_module.version
    trtexec = None if choice == "python" else facts.trtexec
    version = facts.trtexec_tensorrt if trtexec is not None else module
    if version is None:
        raise _missing(facts, choice, where)
    tensorrt_release(version)
    full = facts.tensorrt_full if _are_equal(facts.tensorrt_full, version) else None  # else of trtexec, not asked for
    return TensorrtTools(version, full or version, trtexec, has_module=_are_equal(module, version))


def _are_equal(version: str | None, other: str) -> bool:
    """Whether two versions have equal first numbers. The first three decide whether an engine is loaded."""
    return version is not None and version_numbers(version)[:3] == version_numbers(other)[:3]


def _missing(facts: HostFacts, choice: TensorrtChoice | None, where: str) -> TargetError:
    """The error for a machine without the tools."""
    no_trtexec = "no trtexec in /usr/src/tensorrt/bin or the PATH"
    if facts.trtexec is not None:
        no_trtexec = "no version in the banner of trtexec"
    no_module = f"no Python module: {facts.tensorrt_module.problem or 'it was not looked for'}"
    got = {"trtexec": no_trtexec, "python": no_module, None: f"{no_trtexec}; {no_module}"}[choice]
    return TargetError(
        "edgevit builds and runs engines with trtexec or TensorRT's Python module, which the target lacks",
        where=where,
        got=got,
        next=way_to_tools(facts, choice),
    )


def way_to_tools(facts: HostFacts, choice: TensorrtChoice | None = None) -> str:
    """The command that installs the tools on a machine, or those of them that are asked for."""
    packages = {"trtexec": "libnvinfer-bin", "python": "python3-libnvinfer", None: "libnvinfer-bin python3-libnvinfer"}
    return f"sudo apt install {packages[choice]}{_or_pip(facts, choice)}"


def _or_pip(facts: HostFacts, choice: TensorrtChoice | None) -> str:
    """The other way to the Python module. On a Jetson there is none: the module comes with JetPack."""
    if facts.kind == "jetson" or choice == "trtexec":
        return ""
    return f", or {facts.system.executable} -m pip install 'tensorrt<{NEWEST_TENSORRT + 1}' numpy pillow"
