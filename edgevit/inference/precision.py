"""Mixed precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from edgevit.progress import Progress

Precision = Literal["float32", "bfloat16", "float16"]
AskedPrecision = Precision | Literal["auto"]
BFLOAT16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16")


def precision_on(asked: AskedPrecision, device: torch.device) -> Precision:
    """The precision that was asked for; `auto` is bfloat16 where the device is fast in it, and float32 elsewhere."""
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


def mention_precision(asked: AskedPrecision, device: torch.device, progress: Progress) -> None:
    """Say which precision `auto` takes, or that bfloat16 is slow here."""
    if asked == "auto":
        progress.say(f"    precision auto takes {precision_on(asked, device)}")
    elif asked == "bfloat16" and not is_fast_in_bfloat16(device):
        progress.say(
            "    bfloat16 can take many times as long as float32 on this device, which has no instructions for it; "
            "precision: auto takes float32 here"
        )


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """torch's autocast for this precision; no autocast for float32."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, precision))
