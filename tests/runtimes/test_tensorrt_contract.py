"""`tensorrt_loading.py` against NVIDIA's own bindings: types by their signatures, names by the bindings themselves."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgevit.checking import nvidia
from edgevit.targets.shipped import TENSORRT_FILES
from tests.checking.test_nvidia import needs_nvidia
from tests.runtimes.tensorrt_bindings import members, real_bindings, signatures

FILE = TENSORRT_FILES["tensorrt_loading.py"]
VERSIONS = ("10.3.0", "10.13.3.9", "11.4")
WRONG = (
    ("set_tensor_address(name, ", "set_tensor_adress(name, "),
    ("execute_async_v3(self._stream)", "execute_async_v3('stream')"),
    ("create_builder_config()", "create_builder_config(1)"),
    ("trt.BuilderFlag.TF32", "trt.BuilderFlag.TF23"),
)


def type_errors(source: str, version: str, folder: Path) -> list[str]:
    """What mypy finds in a source, with NVIDIA's signatures of a version."""
    (folder / "tensorrt.pyi").write_text(signatures(version), encoding="utf-8")
    (folder / "loading.py").write_text(source, encoding="utf-8")
    options = ["--config-file=", "--check-untyped-defs", "--cache-dir=/dev/null"]
    command = [sys.executable, "-m", "mypy", *options, "loading.py"]
    ended = subprocess.run(
        command, cwd=folder, env={**os.environ, "MYPYPATH": str(folder)}, capture_output=True, text=True, check=False
    )
    assert ended.returncode in (0, 1), ended.stdout + ended.stderr
    return [line for line in ended.stdout.splitlines() if line.startswith("loading.py:") and ": error: " in line]


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_every_call_fits_nvidias_signatures(version: str, tmp_path: Path) -> None:
    source = FILE.read_text(encoding="utf-8")
    assert type_errors(source, version, tmp_path) == []
    # The check sees a wrong name, a wrong type, and an argument too many.
    for right, wrong in WRONG:
        assert right in source
        source = source.replace(right, wrong)
    assert len(type_errors(source, version, tmp_path)) == len(WRONG)


def used_names() -> dict[str, list[str]]:
    """The classes of TensorRT and the members of each that the file uses, as far as names tell."""
    tree = ast.parse(FILE.read_text(encoding="utf-8"))
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    direct = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "trt"
    }
    returned = {"ICudaEngine", "IExecutionContext", "EngineInspector", "ITimingCache"}
    return {name: sorted(attributes & names) for name, names in members("10.3.0").items() if name in direct | returned}


NAMES = """
import json, sys
sys.modules["tensorrt_libs"] = None
import tensorrt_bindings as trt
wanted = json.load(sys.stdin)
pairs = [(name, member) for name, names in wanted.items() for member in names]
missing = [pair for pair in pairs if not hasattr(getattr(trt, pair[0]), pair[1])]
print(json.dumps({"version": trt.__version__, "missing": missing, "plugins": callable(trt.init_libnvinfer_plugins)}))
"""


def missing_names(variables: dict[str, str]) -> dict[str, object]:
    ended = subprocess.run(
        [sys.executable, "-c", NAMES],
        input=json.dumps(used_names()),
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    answer: dict[str, object] = json.loads(ended.stdout)
    return answer


def test_the_names_are_those_of_the_file() -> None:
    used = used_names()
    calls = {"execute_async_v3", "get_tensor_shape", "set_input_shape", "set_tensor_address"}
    assert calls <= set(used["IExecutionContext"])
    assert {"build_serialized_network", "create_network"} <= set(used["Builder"])
    assert "STRONGLY_TYPED" in used["NetworkDefinitionCreationFlag"]
    assert {"TF32", "VERSION_COMPATIBLE"} <= set(used["BuilderFlag"])
    assert sum(map(len, used.values())) > 30


@needs_nvidia
def test_nvidias_bindings_of_11_have_every_name(tmp_path: Path) -> None:
    nvidia._link_libraries(tmp_path)
    found = missing_names({"LD_LIBRARY_PATH": str(tmp_path)})
    assert str(found["version"]).startswith("11.4")
    assert (found["missing"], found["plugins"]) == ([], True)


@pytest.mark.slow
@pytest.mark.parametrize("version", ["10.3.0", "10.13.3.9", "10.16.1.11"])
def test_nvidias_bindings_of_10_have_every_name(version: str, tmp_path: Path) -> None:
    found = missing_names(real_bindings(version, tmp_path))
    assert str(found["version"]) == version
    assert (found["missing"], found["plugins"]) == ([], True)
