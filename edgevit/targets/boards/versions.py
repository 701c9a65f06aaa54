"""Versions of L4T, JetPack, TensorRT and CUDA, read from what a machine prints, and which of them edgevit supports.

Sources: NVIDIA's JetPack archive and TensorRT's support matrices.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from edgevit.errors import TargetError, shortened
from edgevit.targets.boards.probe import Probe, System
from edgevit.targets.boards.request import DPKG_QUERY, TENSORRT_MODULE, TRTEXEC

TensorRTSource = Literal["module", "trtexec", "dpkg"]
TENSORRT_PACKAGES = ("libnvinfer-bin", "libnvinfer11", "libnvinfer10", "libnvinfer8", "tensorrt")  # of Debian

OLDEST_TENSORRT = (10, 3)
"""TensorRT 8 has another way to build networks, and no strongly typed networks with Q/DQ as edgevit writes them."""


@dataclass(frozen=True)
class TensorRTRelease:
    """A release of TensorRT that edgevit builds engines with, and the flags in which its trtexec differs.

    Attributes:
        build_flags: ask for a strongly typed network. TensorRT 11 has no other networks.
        run_flags: set the options of a run to equal values in all releases: inputs and outputs are copied, the CPU
            waits actively, and no CUDA graph is used. The defaults of TensorRT 10 and 11 differ in all three.
    """

    version: tuple[int, int]
    build_flags: tuple[str, ...]
    run_flags: tuple[str, ...]

    @property
    def name(self) -> str:
        """Such as 10.3."""
        return ".".join(map(str, self.version))

    def for_version_compatible(self) -> TensorRTRelease:
        """The release with the flag of version-compatible engines, without which trtexec does not load them."""
        flag = "--versionCompatible"
        return replace(self, build_flags=(*self.build_flags, flag), run_flags=(*self.run_flags, flag))


_OF_10 = (("--stronglyTyped",), ("--useSpinWait",))
_OF_11 = ((), ("--includeDataTransfers", "--noCudaGraph"))
TENSORRT_RELEASES = (  # trtexec's options are those of samples/common/sampleOptions.cpp in v10.3 to v11.1
    TensorRTRelease((10, 3), *_OF_10),
    TensorRTRelease((10, 13), *_OF_10),
    TensorRTRelease((10, 16), *_OF_10),
    TensorRTRelease((11, 4), *_OF_11),
)
NEWEST_TENSORRT = TENSORRT_RELEASES[-1].version[0]
"""The last major version whose flags are known. A major version may drop flags and change defaults."""


@dataclass(frozen=True)
class PythonWheels:
    """The newest releases of ONNX Runtime, numpy and Pillow that PyPI has wheels of for a Python.

    Attributes:
        glibc: the oldest glibc that ONNX Runtime's wheel runs on.
        onnxruntime: None where today's releases have wheels.
    """

    python: tuple[int, int]
    glibc: tuple[int, int]
    onnxruntime: str | None
    numpy: str
    pillow: str


WHEEL_MACHINES = ("x86_64", "aarch64")
WHEELS = (  # looked up on PyPI in November 2026
    PythonWheels((3, 8), (2, 27), "1.19.2", "1.24.4", "10.4.0"),
    PythonWheels((3, 9), (2, 27), "1.19.2", "2.0.2", "11.3.0"),
    PythonWheels((3, 10), (2, 27), "1.23.2", "2.2.6", "12.3.0"),
    *(PythonWheels((3, minor), (2, 28), None, "2.4.6", "13.0.0") for minor in range(11, 15)),
)


@dataclass(frozen=True)
class JetPack:
    """A JetPack and what it brings.

    Attributes:
        l4t: the first numbers of the releases of Jetson Linux that it holds.
        python: the Python that its `tensorrt` module is for.
        is_supported: whether its TensorRT is new enough for edgevit.
    """

    version: str
    l4t: str
    tensorrt: str
    cuda: str
    python: str
    is_supported: bool


JETPACKS = (  # the longest number that fits is taken, so 36.4.3 is read before 36.4
    JetPack("4.6", "32", "8.2", "10.2", "3.6", False),
    JetPack("4.4", "32.4", "7.1", "10.2", "3.6", False),
    JetPack("4.5", "32.5", "7.1", "10.2", "3.6", False),
    JetPack("4.6", "32.6", "8.0", "10.2", "3.6", False),
    JetPack("4.6.1", "32.7", "8.2", "10.2", "3.6", False),
    JetPack("5.0", "34", "8.4", "11.4", "3.8", False),
    JetPack("5.0.2", "35.1", "8.4.1", "11.4", "3.8", False),
    JetPack("5.1", "35", "8.5.2", "11.4", "3.8", False),
    JetPack("6.0", "36.2", "8.6.2", "12.2", "3.10", False),
    JetPack("6.0", "36.3", "8.6.2", "12.2", "3.10", False),
    JetPack("6.1", "36.4", "10.3", "12.6", "3.10", True),
    JetPack("6.2", "36.4.3", "10.3", "12.6", "3.10", True),
    JetPack("6.2.1", "36.4.4", "10.3", "12.6", "3.10", True),
    JetPack("6.2.1", "36.4.7", "10.3", "12.6", "3.10", True),
    JetPack("6.2.2", "36.5", "10.3", "12.6", "3.10", True),
    JetPack("7.0", "38.2", "10.13.3", "13.0", "3.12", True),
    JetPack("7.1", "38.4", "10.13.3", "13.0", "3.12", True),
    JetPack("7.2", "39.2", "10.16.2", "13.2", "3.12", True),
)


@dataclass(frozen=True)
class TensorRT:
    """An installed TensorRT.

    Attributes:
        source: what named the version: the Python module, the banner of trtexec, or a Debian package.
    """

    version: str
    source: TensorRTSource


@dataclass(frozen=True)
class TensorRTModule:
    """TensorRT's Python module in the target's Python.

    Attributes:
        version: None if it cannot be imported, or numpy or Pillow cannot.
        problem: why it cannot be imported; empty if it can, or was not asked for.
    """

    version: str | None
    problem: str


def version_numbers(version: str) -> tuple[int, ...]:
    """`10.3.0.30-1+cuda12.5` → (10, 3, 0, 30); empty if it starts with no number."""
    numbers = re.match(r"\d{1,6}(?:\.\d{1,6}){0,5}", version, re.ASCII)
    return tuple(map(int, numbers[0].split("."))) if numbers else ()


def l4t_version(probe: Probe) -> str | None:
    """The release of Jetson Linux, such as 36.4.3."""
    first_line = probe.files.get("/etc/nv_tegra_release", "")
    release = re.search(r"# R(\d{1,3}) \(release\), REVISION: (\d{1,3}(?:\.\d{1,3}){0,2})", first_line, re.ASCII)
    if release:
        return f"{release[1]}.{release[2]}"
    return _plain(debian_packages(probe).get("nvidia-l4t-core"))


def jetpack_of(l4t: str | None) -> JetPack | None:
    """The JetPack that holds a release of Jetson Linux; None if the table does not know it."""
    numbers = version_numbers(l4t or "")
    fitting = [row for row in JETPACKS if numbers[: len(version_numbers(row.l4t))] == version_numbers(row.l4t)]
    return max(fitting, key=lambda row: len(version_numbers(row.l4t)), default=None)


def jetpack_version(probe: Probe) -> str | None:
    """The version of the package nvidia-jetpack; else the JetPack of the release of Jetson Linux."""
    if package := _plain(debian_packages(probe).get("nvidia-jetpack")):
        return package
    row = jetpack_of(l4t_version(probe))
    return row.version if row else None


def tensorrt_of(probe: Probe) -> TensorRT | None:
    """The TensorRT that the machine's Python imports; else that of trtexec; else that of its Debian packages."""
    packages = debian_packages(probe)
    found: tuple[tuple[TensorRTSource, str | None], ...] = (
        ("module", _plain(probe.system.packages.get("tensorrt"))),
        ("trtexec", trtexec_version(probe)),
        ("dpkg", next((_plain(packages[name]) for name in TENSORRT_PACKAGES if name in packages), None)),
    )
    return next((TensorRT(version, source) for source, version in found if version), None)


def tensorrt_module(probe: Probe) -> TensorRTModule:
    """TensorRT's Python module, by an attempt to import it."""
    answer = probe.commands.get(TENSORRT_MODULE.name)
    if answer is None:
        return TensorRTModule(None, "")
    last = ((answer.stdout if answer.status == 0 else answer.stderr).strip().splitlines() or [""])[-1]
    if answer.status == 0 and (version := _plain(last)):
        return TensorRTModule(version, "")
    return TensorRTModule(None, "it takes too long" if answer.status is None else shortened(last) or "it fails")


def trtexec_place(probe: Probe) -> str | None:
    """The path or the name by which trtexec answered; None if there is none."""
    answered = (command for command in TRTEXEC if command.name in probe.commands)
    return next((command.arguments[0] for command in answered), None)


def trtexec_version(probe: Probe) -> str | None:
    """The version in the banner of trtexec: v8502 is 8.5.2, v100300 is 10.3.0, v101602 is 10.16.2."""
    place = trtexec_place(probe)
    if place is None:
        return None
    answer = probe.commands[f"{place} --help"]
    banner = re.search(r"\[TensorRT v(\d{4}|\d{6})\]", answer.stdout + answer.stderr, re.ASCII)
    if banner is None:
        return None
    digits = banner[1] if len(banner[1]) == 6 else f"0{banner[1][0]}0{banner[1][1:]}"
    return ".".join(str(int(digits[start : start + 2])) for start in (0, 2, 4))


def full_tensorrt_version(probe: Probe) -> str | None:
    """The version of TensorRT with all numbers that the machine tells, such as 10.3.0.30.

    It is trtexec's TensorRT, or that of the Python module where trtexec is not there. trtexec tells three numbers. The
    module and the Debian packages may tell more: they count if they begin with these.
    """
    module = tensorrt_module(probe).version
    version = trtexec_version(probe) or module
    if version is None:
        return None
    packages = debian_packages(probe)
    told = [module, probe.system.packages.get("tensorrt"), *(packages.get(name) for name in TENSORRT_PACKAGES)]
    plain = [text for text in map(_plain, told) if text]
    fitting = [text for text in plain if version_numbers(text)[:3] == version_numbers(version)[:3]]
    return max(fitting, key=lambda text: len(version_numbers(text)), default=version)


def tensorrt_release(version: str) -> TensorRTRelease:
    """The newest release in the table that is not newer than a version.

    TensorRT 11.0 to 11.3 have the trtexec of 11.4.

    Raises:
        TargetError: the version is too old, no version, or of a later major version than the table's: its flags are
            not known.
    """
    numbers = version_numbers(version)
    if numbers < OLDEST_TENSORRT:
        raise TargetError(
            "this TensorRT is too old for edgevit's engines",
            got=f"TensorRT {version}",
            expected=f"TensorRT {TENSORRT_RELEASES[0].name} or later",
            next="install JetPack 6.2 or later on a Jetson, TensorRT 10.3 or later elsewhere",
        )
    if numbers[0] > NEWEST_TENSORRT:
        raise TargetError(
            "this TensorRT is newer than edgevit's engines",
            got=f"TensorRT {version}",
            expected=f"TensorRT {TENSORRT_RELEASES[0].name} to {NEWEST_TENSORRT}",
            next=f"install TensorRT {NEWEST_TENSORRT} there, or a newer edgevit here",
        )
    fitting = [row for row in TENSORRT_RELEASES if row.version <= numbers[:2] or row.version[0] == numbers[0] == 11]
    return max(fitting, key=lambda row: row.version)


def cuda_version(probe: Probe) -> str | None:
    """The version of CUDA in /usr/local/cuda."""
    try:
        version = json.loads(probe.files["/usr/local/cuda/version.json"])["cuda"]["version"]
    except (KeyError, TypeError, ValueError, RecursionError):
        version = probe.files.get("/usr/local/cuda/version.txt", "").removeprefix("CUDA Version ")
    return _plain(version) if isinstance(version, str) else None


def glibc_of(system: System) -> tuple[int, ...]:
    """The version of glibc; empty if the machine has another C library."""
    name, _, version = system.libc.partition(" ")
    return version_numbers(version) if name == "glibc" else ()


def python_wheels(system: System) -> PythonWheels:
    """The row of WHEELS for a machine.

    Raises:
        TargetError: there are no wheels for its processor, Python or C library.
    """
    rows: dict[tuple[int, ...], PythonWheels] = {row.python: row for row in WHEELS}
    if system.machine not in WHEEL_MACHINES:
        expected = " or ".join(WHEEL_MACHINES)
        raise TargetError("ONNX Runtime has no wheels for this processor", got=system.machine, expected=expected)
    row = rows.get(version_numbers(system.python)[:2])
    if row is None:
        oldest, newest = (".".join(map(str, python)) for python in (min(rows), max(rows)))
        raise TargetError(
            "ONNX Runtime has no wheels for the target's Python",
            got=f"Python {system.python}",
            expected=f"Python {oldest} to {newest}",
            next="set the target's `python` to the command of such a Python there",
        )
    if glibc_of(system) < row.glibc:
        raise TargetError(
            "ONNX Runtime has no wheels for the target's C library",
            got=system.libc or "no glibc (musl, as on Alpine)",
            expected=f"glibc {'.'.join(map(str, row.glibc))} or later for Python {system.python}",
        )
    return row


def has_onnxruntime_wheel(system: System) -> bool:
    """Whether PyPI has a wheel of ONNX Runtime for a machine's Python, processor and C library."""
    try:
        python_wheels(system)
    except TargetError:
        return False
    return True


def debian_packages(probe: Probe) -> Mapping[str, str]:
    """Package → version, of NVIDIA's Debian packages that are installed."""
    answer = probe.commands.get(DPKG_QUERY.name)
    rows = (line.split("\t") for line in answer.stdout.splitlines()) if answer else ()
    return {row[0]: row[1] for row in rows if len(row) == 3 and row[2] == "installed" and row[1]}


def _plain(version: str | None) -> str | None:
    """`6.2.1+b38` → `6.2.1`: the numbers alone."""
    return ".".join(map(str, version_numbers(version))) or None if version else None
