"""Mixed precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

Precision = Literal["float32", "bfloat16", "float16"]
AskedPrecision = Precision | Literal["auto"]
BFLOAT16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16")


def teacher_precision(asked: AskedPrecision, device: torch.device) -> Precision:
    """The precision of a teacher's answers: what was asked for, or for `auto` what the device alone decides.

    No trial decides it: answers are cached, and have to be equal in each run.
    """
    if asked == "auto":
        return "bfloat16" if is_fast_in_bfloat16(device) else "float32"
    return asked


def is_fast_in_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for products in bfloat16.

    A CPU without them emulates such products, many times slower than in float32
    (`benchmarks/training_precision.py`). Those of Arm CPUs were not measured, and count as slow.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in BFLOAT16_INSTRUCTIONS)


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """torch's autocast for this precision; no autocast for float32."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, precision))
