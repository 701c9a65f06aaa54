"""The precision `auto`, and what is said about bfloat16 on a CPU without instructions for it."""

from __future__ import annotations

import io
import platform
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch

from edgevit.inference.precision import is_fast_in_bfloat16, mention_precision, precision_on
from edgevit.progress import PlainProgress

CPU = torch.device("cpu")
CPUINFO = Path("/proc/cpuinfo")


def cpu_with(monkeypatch: pytest.MonkeyPatch, **capabilities: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: MappingProxyType(capabilities))


def said(asked: Any) -> str:
    stream = io.StringIO()
    mention_precision(asked, CPU, PlainProgress(stream))
    return stream.getvalue()


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
def test_auto_takes_bfloat16_where_the_cpu_has_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], taken: str
) -> None:
    cpu_with(monkeypatch, **capabilities)
    assert precision_on("auto", CPU) == taken
    assert said("auto") == f"    precision auto takes {taken}\n"


@pytest.mark.parametrize("asked", ["float32", "bfloat16", "float16"])
def test_a_precision_that_is_asked_for_is_taken(monkeypatch: pytest.MonkeyPatch, asked: Any) -> None:
    for has in (False, True):
        cpu_with(monkeypatch, avx512_bf16=has)
        assert precision_on(asked, CPU) == asked


def test_slow_bfloat16_is_said_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu_with(monkeypatch, avx512_bf16=False)
    assert "many times as long" in said("bfloat16")
    assert "precision: auto" in said("bfloat16")
    assert said("float32") == ""
    cpu_with(monkeypatch, avx512_bf16=True)
    assert said("bfloat16") == ""
