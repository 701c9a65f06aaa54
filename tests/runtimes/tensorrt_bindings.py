"""NVIDIA's TensorRT bindings as tests see them: their signatures, and the bindings themselves without a GPU.

`../shared/reference/tensorrt_api` holds signatures that were read from the bindings. The bindings are on PyPI. They
load with libraries in which every function is a stub, and then hold all classes; nothing can be built with them.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.targets.standin.module import GCC

SIGNATURES = Path(__file__).parents[3] / "shared" / "reference" / "tensorrt_api"
FUNCTIONS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)
LIBRARIES = ("libnvinfer", "libnvonnxparser", "libnvinfer_plugin")


@cache
def signatures(version: str) -> str:
    """The stub file of a version, as type checkers take it.

    Some classes hold values that are no Python, and their members are left open.
    """
    file = SIGNATURES / version / "tensorrt.pyi"
    if not file.is_file():
        pytest.skip(f"needs NVIDIA's signatures ({file} is not there)")
    return "".join(_valid(part) for part in re.split(r"(?m)^(?=class |def )", file.read_text(encoding="utf-8")))


def members(version: str) -> dict[str, set[str]]:
    """The names in each class of a stub file."""
    classes = (node for node in ast.parse(signatures(version)).body if isinstance(node, ast.ClassDef))
    return {node.name: set(_names(node)) for node in classes}


def real_bindings(version: str, folder: Path) -> dict[str, str]:
    """Variables with which `import tensorrt_bindings` gives the bindings of a version, which pip downloads."""
    if GCC is None:
        pytest.skip("needs gcc, to compile libraries of stubs")
    wheels = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    if subprocess.run([*wheels, "--dest", folder, f"tensorrt-cu12-bindings=={version}"], check=False).returncode:
        pytest.skip(f"needs tensorrt-cu12-bindings {version} from PyPI")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder)
    source = "".join(f"void *{name}(void) {{ return 0; }}\n" for name in FUNCTIONS)
    for name in LIBRARIES:
        library = folder / f"{name}.so.{version.partition('.')[0]}"
        subprocess.run([GCC, "-shared", "-x", "c", "-", "-o", library], input=source, text=True, check=True)
    return {"PYTHONPATH": str(folder), "LD_LIBRARY_PATH": str(folder)}


def _valid(part: str) -> str:
    try:
        ast.parse(part)
    except SyntaxError:
        name = re.match(r"(?:class|def) (\w+)", part)
        assert name is not None
        return f"class {name[1]}:\n    def __getattr__(self, name: str) -> typing.Any: ...\n"
    return part


def _names(node: ast.ClassDef) -> Iterator[str]:
    for entry in node.body:
        if isinstance(entry, ast.FunctionDef):
            yield entry.name
        elif isinstance(entry, ast.AnnAssign) and isinstance(entry.target, ast.Name):
            yield entry.target.id
