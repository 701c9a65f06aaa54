"""A library that no compiler made, loaded by the loader of this machine."""

from __future__ import annotations

import ctypes
import platform
import sys
from pathlib import Path

import pytest

from edgevit.checking.stub_library import shared_library

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="it is for x86-64 Linux"
)


@pytest.mark.parametrize("name", ["f", "initLibNvInferPlugins", "a_name_of_" + "many_" * 40 + "letters"])
def test_its_function_returns_true(name: str, tmp_path: Path) -> None:
    file = tmp_path / "libstub.so"
    file.write_bytes(shared_library(name, "libstub.so"))
    library = ctypes.CDLL(str(file))
    assert library[name](None, None) == 1
    with pytest.raises(AttributeError):
        library["another"]
