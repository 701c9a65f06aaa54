"""An installed ONNX Runtime whose CUDA provider is there as a file alone: it is looked for, and never loaded."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


def install_cuda_library(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, the module that Python would import as ONNX Runtime has the library of the CUDA provider."""
    module = folder / "onnxruntime"
    (module / "capi").mkdir(parents=True)
    (module / "__init__.py").touch()
    (module / "capi" / "libonnxruntime_providers_cuda.so").touch()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
