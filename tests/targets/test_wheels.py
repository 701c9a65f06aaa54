"""Which wheels a machine needs, and pip that gets them."""

from __future__ import annotations

import json
import shlex
import sys
import zipfile
from pathlib import Path

import onnxruntime
import pytest

from edgevit.errors import MissingDependency, TargetError
from edgevit.targets.boards.probe import System
from edgevit.targets.boards.versions import WHEEL_MACHINES, WHEELS, PythonWheels
from edgevit.targets.wheels import WheelSet, fetched, wheels_for
from tests.pythons import index_is_reached, pip


def system(python: str = "3.10.12", machine: str = "aarch64", libc: str = "glibc 2.35") -> System:
    return System(
        machine=machine,
        system="Linux",
        release="6.1",
        python=python,
        executable="python3",
        cpus=4,
        memory_bytes=None,
        memory_free_bytes=None,
        disk_free_bytes=None,
        work_folder="/work",
        packages={},
        libc=libc,
        user="user",
        is_root=False,
    )


def test_an_older_python_gets_the_newest_release_that_has_wheels_for_it() -> None:
    wheels = wheels_for(system())
    assert wheels.versions == {"onnxruntime": "1.23.2", "numpy": "2.2.6", "pillow": "12.3.0"}
    assert wheels.python == (3, 10)
    assert wheels.platforms[0] == "manylinux_2_28_aarch64"
    assert wheels_for(system(libc="glibc 2.41")) == wheels  # one set, so one cache, for machines with a newer glibc


@pytest.mark.parametrize("python", ["3.11.2", "3.13.0"])
def test_a_newer_python_gets_the_release_that_is_installed_here(python: str) -> None:
    assert wheels_for(system(python)).versions["onnxruntime"] == onnxruntime.__version__
    assert wheels_for(system(python), "1.26.0").versions["onnxruntime"] == "1.26.0"


def test_an_older_glibc_gets_no_wheel_for_a_newer_one() -> None:
    platforms = wheels_for(system("3.8.10", "x86_64", "glibc 2.27")).platforms
    assert platforms == ("manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


@pytest.mark.parametrize(
    ("changes", "got"),
    [
        ({"machine": "armv7l"}, "armv7l"),
        ({"python": "3.7.17"}, "Python 3.7.17"),
        ({"python": "3.99.0"}, "Python 3.99.0"),
        ({"python": ""}, "Python "),
        ({"libc": ""}, "no glibc (musl, as on Alpine)"),
        ({"libc": "glibc 2.24"}, "glibc 2.24"),
        ({"python": "3.12.1", "libc": "glibc 2.27"}, "glibc 2.27"),
    ],
)
def test_a_machine_without_wheels_is_refused(changes: dict[str, str], got: str) -> None:
    with pytest.raises(TargetError) as error:
        wheels_for(system(**changes))
    assert error.value.got == got
    assert error.value.expected


@pytest.mark.parametrize("version", ["newest", "1", "1.24.4 --pre", "1.24.4;os_name", "-1.2", "1.٢"])
def test_a_version_is_numbers(version: str) -> None:
    with pytest.raises(TargetError, match="no version of ONNX Runtime"):
        wheels_for(system(), version)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache's folder of wheels; no index of packages can be reached."""
    monkeypatch.setenv("EDGEVIT_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    folder = tmp_path / "wheels"
    folder.mkdir()
    return folder


WANTED = WheelSet((3, 10), ("manylinux_2_28_x86_64", "manylinux2014_x86_64"), {"numpy": "2.0.0", "pillow": "11.1"})


def put(folder: Path, *names: str) -> None:
    for name in names:
        with zipfile.ZipFile(folder / f"{name}.whl", "w") as archive:
            archive.writestr("content", name)


def test_wheels_that_are_kept_need_no_network(cache: Path) -> None:
    said: list[str] = []
    put(cache, "numpy-2.0.0-cp310-cp310-manylinux2014_x86_64", "Pillow-11.1.0-1-cp310-cp310-manylinux2014_x86_64.any")
    put(cache, "numpy-2.0.0-cp310-cp310-manylinux_2_27_x86_64.manylinux_2_28_x86_64")
    names = [file.name for file in fetched(WANTED, said.append)]
    assert names == [
        "numpy-2.0.0-cp310-cp310-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl",  # the newer platform
        "Pillow-11.1.0-1-cp310-cp310-manylinux2014_x86_64.any.whl",
    ]
    assert said == []


OTHERS = (  # wheels of another version, Python, ABI, processor, C library and package
    "numpy-2.0.1-cp310-cp310-manylinux2014_x86_64",
    "numpy-2.0.0-cp311-cp311-manylinux2014_x86_64",
    "numpy-2.0.0-cp310-cp310t-manylinux2014_x86_64",
    "numpy-2.0.0-cp310-cp310-manylinux2014_aarch64",
    "numpy-2.0.0-cp310-cp310-musllinux_1_2_x86_64",
    "numpy_stubs-2.0.0-cp310-cp310-manylinux2014_x86_64",
)


def test_without_a_network_the_error_says_how_to_get_the_missing_wheel(cache: Path) -> None:
    put(cache, "pillow-11.1.0-cp310-cp310-manylinux2014_x86_64", *OTHERS)
    (cache / "numpy-2.0.0-cp310-cp310-manylinux_2_28_x86_64.whl").write_bytes(b"half a whe")
    said: list[str] = []
    with pytest.raises(TargetError, match="pip did not get the wheels") as error:
        fetched(WANTED, said.append)
    assert "Connection refused" in str(error.value.got)
    advice = shlex.split(error.value.next)
    assert f"{cache}:" in advice
    assert advice[advice.index("python") :][:4] == ["python", "-m", "pip", "download"]
    assert advice[-1] == "numpy==2.0.0"  # and not pillow, which is there
    assert len(said) == 1


def test_without_pip_the_error_says_so(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pip", None)
    with pytest.raises(MissingDependency, match="pip is not installed"):
        fetched(WANTED, print)


@pytest.mark.slow
@pytest.mark.parametrize("machine", WHEEL_MACHINES)
@pytest.mark.parametrize("row", WHEELS, ids=lambda row: ".".join(map(str, row.python)))
def test_pip_finds_every_wheel_of_the_table(row: PythonWheels, machine: str, tmp_path: Path) -> None:
    index_is_reached(tmp_path)
    python, libc = (".".join(map(str, numbers)) for numbers in (row.python, row.glibc))
    wheels = wheels_for(system(python, machine, f"glibc {libc}"))
    for_it = [f"--python-version={python}", f"--abi={wheels.tag}", *(f"--platform={name}" for name in wheels.platforms)]
    wanted = [f"{name}=={version}" for name, version in wheels.versions.items()]
    options = ["-q", "--dry-run", "--no-deps", "--only-binary=:all:", "--report=-", f"--target={tmp_path / 'none'}"]
    answer = pip("install", *options, *for_it, *wanted)
    assert answer.returncode == 0, answer.stderr
    got = {
        entry["metadata"]["name"].lower(): entry["metadata"]["version"]
        for entry in json.loads(answer.stdout)["install"]
    }
    assert got == wheels.versions


@pytest.mark.slow
def test_pip_fetches_what_is_missing_and_names_a_version_that_there_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index_is_reached(tmp_path)
    monkeypatch.setenv("EDGEVIT_CACHE", str(tmp_path))
    wheels = wheels_for(system("3.9.2"))
    files = fetched(wheels, print)
    assert [file.name.split("-")[0] for file in files] == ["onnxruntime", "numpy", "pillow"]
    assert all(zipfile.ZipFile(file).testzip() is None for file in files)
    assert sorted((tmp_path / "wheels").iterdir()) == sorted(files)  # nothing else is left there
    with pytest.raises(
        TargetError, match=r"no wheel of onnxruntime==1\.23\.2 for Python 3\.9 on manylinux_2_28_aarch64"
    ):
        fetched(wheels_for(system("3.9.2"), "1.23.2"), print)
