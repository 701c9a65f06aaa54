"""Which devices are fast in bfloat16, and the precision of a teacher's answers."""

from __future__ import annotations

import platform
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch

from edgevit.inference.precision import is_fast_in_bfloat16, teacher_precision

CPU = torch.device("cpu")
CPUINFO = Path("/proc/cpuinfo")


def cpu_with(monkeypatch: pytest.MonkeyPatch, **capabilities: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: MappingProxyType(capabilities))


@pytest.mark.skipif(
    platform.machine() != "x86_64" or not CPUINFO.is_file(), reason="Linux names these instructions on x86-64 alone"
)
def test_instructions_are_those_that_the_kernel_names() -> None:
    flags = CPUINFO.read_text().partition("flags")[2].partition("\n")[0].split()
    assert is_fast_in_bfloat16(CPU) == bool({"avx512_bf16", "amx_bf16"} & set(flags))


@pytest.mark.parametrize(
    ("capabilities", "taken"),
    [
        ({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, "float32"),
        ({"avx512_bf16": True, "amx_bf16": False}, "bfloat16"),
        ({"avx512_bf16": False, "amx_bf16": True}, "bfloat16"),
        ({"neon": True, "bf16": True}, "float32"),  # not measured
    ],
)
def test_a_teacher_takes_bfloat16_where_the_cpu_has_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], taken: str
) -> None:
    cpu_with(monkeypatch, **capabilities)
    assert teacher_precision("auto", CPU) == taken


@pytest.mark.parametrize("asked", ["float32", "bfloat16", "float16"])
def test_a_precision_that_is_asked_for_is_taken(monkeypatch: pytest.MonkeyPatch, asked: Any) -> None:
    for has in (False, True):
        cpu_with(monkeypatch, avx512_bf16=has)
        assert teacher_precision(asked, CPU) == asked
