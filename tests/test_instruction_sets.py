"""`make test-isa` sets variables of four libraries: each library then computes as an older CPU does."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the variables are those of x86-64"),
]

USED = """
import json, numpy, scipy.linalg, torch
from threadpoolctl import threadpool_info

torch.ones(9, 9) @ torch.ones(9, 9)  # MKL_VERBOSE tells how
found = {
    "torch": torch.backends.cpu.get_cpu_capability(),
    "openblas": [one["architecture"] for one in threadpool_info() if one["internal_api"] == "openblas"],
    "numpy": numpy.show_config(mode="dicts")["SIMD Extensions"].get("found", []),
}
print(json.dumps(found))
"""


def variables(capability: str) -> dict[str, str]:
    """What `make test-isa` sets for the run with this ATEN_CPU_CAPABILITY."""
    answer = subprocess.run(
        ["make", "--dry-run", "test-isa"], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True
    )
    lines = answer.stdout.replace("\\\n", " ").splitlines()
    (command,) = (line for line in lines if f"ATEN_CPU_CAPABILITY={capability} " in line)
    words = shlex.split(command)
    return dict(word.split("=", 1) for word in words[: words.index(".venv/bin/pytest")])


@pytest.mark.parametrize(("capability", "openblas"), [("default", "Nehalem"), ("avx2", "Haswell")])
def test_each_library_takes_the_instruction_set_that_make_names(capability: str, openblas: str) -> None:
    chosen = variables(capability)
    environment = {**os.environ, **chosen, "MKL_VERBOSE": "1"}
    answer = subprocess.run([sys.executable, "-c", USED], env=environment, capture_output=True, text=True, check=True)
    *mkl, last = answer.stdout.splitlines()
    found = json.loads(last)
    assert found["torch"] == capability.upper()
    assert found["openblas"]
    assert set(found["openblas"]) == {openblas}
    assert not set(found["numpy"]) & set(chosen["NPY_DISABLE_CPU_FEATURES"].split())
    assert mkl
    assert not any("AVX-512" in line for line in mkl)
    assert any("CNR:COMPATIBLE" in line for line in mkl) == (capability == "default")
