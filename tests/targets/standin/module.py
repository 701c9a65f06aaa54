"""TensorRT's Python module and a CUDA runtime for a stand-in board, and the variables by which Python finds them."""

from __future__ import annotations

import shutil
import subprocess
import textwrap
from pathlib import Path

import pytest

from tests.targets.standin.build import TESTS, BuiltStandin

HERE = Path(__file__).parent
GCC = shutil.which("gcc")
needs_gcc = pytest.mark.skipif(GCC is None, reason="needs gcc, to compile stand-ins for NVIDIA's libraries")


def module_of(standin: BuiltStandin) -> dict[str, str]:
    """Write the module for a stand-in board. Returns the variables PYTHONPATH and LD_LIBRARY_PATH."""
    packages, libraries = standin.root / "python", standin.root / "lib"
    for folder in (packages, libraries):
        folder.mkdir(exist_ok=True)
    (packages / "tensorrt.py").write_text(
        textwrap.dedent(
            f"""
            import sys
            from pathlib import Path
            sys.path.append({str(TESTS)!r})
            from tests.targets.standin import tensorrt_module
            tensorrt_module.play(Path({str(standin.settings)!r}), Path({str(standin.variant)!r}))
            sys.modules["tensorrt"] = tensorrt_module
            """
        )
    )
    compile_cudart(libraries / "libcudart.so.12")
    return {"PYTHONPATH": str(packages), "LD_LIBRARY_PATH": str(libraries)}


def compile_cudart(library: Path) -> None:
    compile_library("cudart.c", library)


def compile_library(source: str, library: Path) -> None:
    """Compile a C file of this folder."""
    subprocess.run([str(GCC), "-shared", "-fPIC", "-O1", "-o", library, HERE / source], check=True)
