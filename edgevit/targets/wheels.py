"""The wheels that a machine needs to run models: their versions, and pip that gets them for its Python and processor.

Nothing is installed, here or there.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from edgevit.configs.runtimes import ONNXRUNTIME
from edgevit.disks import cache_folder, whole_or_not_at_all
from edgevit.errors import MissingDependency, TargetError, shortened
from edgevit.provenance import version_of
from edgevit.targets.boards.probe import System
from edgevit.targets.boards.versions import glibc_of, python_wheels

PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")
"""Tags of the wheels on PyPI, newest first. The numbers name the oldest glibc; manylinux2014 is manylinux_2_17."""
FOLDER = "wheels"  # in the user's cache folder
DOWNLOAD_SECONDS = 1_800
PIP_LIMITS = ("--retries=1", "--timeout=30")  # pip alone tries for minutes where there is no network

# Name, version, build, Python, ABI and platforms (PEP 427).
_WHEEL = re.compile(r"([^-]+)-([^-]+)(?:-\d[^-]*)?-([^-]+)-([^-]+)-([^-]+)\.whl")


@dataclass(frozen=True)
class WheelSet:
    """The wheels of a machine.

    Attributes:
        python: the machine's Python, such as (3, 10).
        platforms: pip's tags of the wheels that run there, best first.
        versions: distribution → version.
    """

    python: tuple[int, int]
    platforms: tuple[str, ...]
    versions: Mapping[str, str]

    @property
    def tag(self) -> str:
        """`cp310`"""
        return f"cp{self.python[0]}{self.python[1]}"

    def __str__(self) -> str:
        return f"{', '.join(f'{name} {version}' for name, version in self.versions.items())} for {self.platforms[0]}"


def wheels_for(system: System, onnxruntime: str | None = None) -> WheelSet:
    """The wheels of ONNX Runtime, numpy and Pillow for a machine.

    Args:
        onnxruntime: a version. By default the version that is installed here; for an older Python, the newest version
            that has a wheel for it.

    Raises:
        TargetError: there are no wheels for the machine's Python, processor or C library.
    """
    row = python_wheels(system)
    version = onnxruntime or row.onnxruntime or version_of(ONNXRUNTIME.package)
    if version is None or not re.fullmatch(r"\d{1,6}(\.\d{1,6}){1,3}", version, re.ASCII):
        raise TargetError("that is no version of ONNX Runtime", got=version, expected="numbers, such as 1.24.4")
    platforms = tuple(f"{name}_{system.machine}" for name in PLATFORMS if _glibc(name) <= glibc_of(system))
    return WheelSet(row.python, platforms, {ONNXRUNTIME.package: version, "numpy": row.numpy, "pillow": row.pillow})


def fetched(wheels: WheelSet, say: Callable[[str], None]) -> list[Path]:
    """The files of the wheels, from the user's cache folder. pip gets those that are not there.

    Raises:
        TargetError: a version has no wheel for the machine, there is no network, or this user has no cache folder.
        MissingDependency: pip is not installed.
    """
    folder = _folder()
    missing = [name for name in wheels.versions if _file(wheels, name, folder) is None]
    if missing:
        say(f"fetching wheels with pip: {wheels}")
        _download(wheels, missing, folder)
    files = {name: _file(wheels, name, folder) for name in wheels.versions}
    if lacking := [name for name, file in files.items() if file is None]:
        raise TargetError("pip got another wheel than it was asked for", where=folder, got=lacking)
    return [file for file in files.values() if file is not None]


def _glibc(platform: str) -> tuple[int, ...]:
    """The oldest glibc that a tag allows: `manylinux_2_28` → (2, 28)."""
    numbers = tuple(map(int, re.findall(r"_(\d+)", platform)))
    return numbers or (2, 17)


def _folder() -> Path:
    folder = cache_folder()
    if folder is None:
        next_step = "set EDGEVIT_CACHE to a folder"
        raise TargetError("there is no folder for wheels: this user has no home", next=next_step)
    return folder / FOLDER


def _file(wheels: WheelSet, package: str, folder: Path) -> Path | None:
    """The best wheel of a package in a folder; None if there is none for the machine."""
    files = {place: file for file in folder.glob("*.whl") if (place := _place(wheels, package, file)) is not None}
    return files[min(files)] if files else None


def _place(wheels: WheelSet, package: str, file: Path) -> int | None:
    """The place of a wheel's platform among those of the machine; None if it is no wheel of the package for it."""
    name = _WHEEL.fullmatch(file.name)
    wanted = (package, _plain(wheels.versions[package]), wheels.tag, wheels.tag)
    if name is None or (name[1].lower(), _plain(name[2]), name[3], name[4]) != wanted or not zipfile.is_zipfile(file):
        return None
    platforms = name[5].split(".")
    return next((place for place, platform in enumerate(wheels.platforms) if platform in platforms), None)


def _plain(version: str) -> str:
    """A version without zeros at its end: 1.26.0 and 1.26 are equal."""
    return re.sub(r"(\.0)+$", "", version)


def _download(wheels: WheelSet, packages: list[str], folder: Path) -> None:
    """Get wheels into a folder, each whole or not at all."""
    arguments = _pip_arguments(wheels, packages)
    command = shlex.join(["python", "-m", "pip", *arguments])
    by_hand = f"get the files where there is a network, and put them into {folder}: {command}"
    if importlib.util.find_spec("pip") is None:
        raise MissingDependency("pip is not installed; it gets the wheels", next=f"python -m ensurepip, or {by_hand}")
    with TemporaryDirectory(prefix="edgevit-") as downloads:
        try:
            ended = _pip([*arguments, f"--dest={downloads}", "--quiet", "--no-input", *PIP_LIMITS])
        except subprocess.TimeoutExpired:
            raise TargetError(f"pip did not get the wheels within {DOWNLOAD_SECONDS} s", next=by_hand) from None
        if ended.returncode != 0:
            raise _pip_failure(wheels, ended.stderr, by_hand)
        for file in Path(downloads).glob("*.whl"):
            with whole_or_not_at_all(folder / file.name) as part:
                shutil.copyfile(file, part)


def _pip_arguments(wheels: WheelSet, packages: list[str]) -> list[str]:
    machine = ["--implementation=cp", f"--python-version={'.'.join(map(str, wheels.python))}", f"--abi={wheels.tag}"]
    platforms = [f"--platform={platform}" for platform in wheels.platforms]
    requirements = [f"{name}=={wheels.versions[name]}" for name in packages]
    return ["download", "--no-deps", "--only-binary=:all:", *machine, *platforms, *requirements]


def _pip(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", *arguments]
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS, check=False
    )


def _pip_failure(wheels: WheelSet, stderr: str, by_hand: str) -> TargetError:
    """pip's failure. Without a network, pip warns of the connection, and then says that there is no such version."""
    warning = re.search(r"connection broken by (.*)", stderr)
    unknown = re.search(r"No matching distribution found for (\S+)", stderr)
    if unknown is None or warning is not None:
        reason = re.sub("<.*?>: ", "", warning[1]) if warning else stderr.strip()[-300:]
        return TargetError("pip did not get the wheels", got=shortened(reason, 300), next=by_hand)
    python = ".".join(map(str, wheels.python))
    return TargetError(
        f"there is no wheel of {unknown[1]} for Python {python} on {wheels.platforms[0]}",
        next="name another version: edgevit devices add --onnxruntime VERSION, or onnxruntime: in targets.yaml",
    )
