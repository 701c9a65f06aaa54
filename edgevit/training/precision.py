"""Autocast, and how a device says that its memory is full."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

# torch's allocator on the CPU, oneDNN, cuBLAS and cuDNN.
NO_MEMORY = ("can't allocate memory", "could not create a primitive", "could not create a memory", "ALLOC_FAILED")
Precision = Literal["float32", "bfloat16", "float16"]


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Mixed precision by torch's rules; nothing for float32."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, precision))


def is_out_of_memory(error: Exception) -> bool:
    """Whether this is a device's, or a library's, way to say that there is no memory left."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(words in str(error) for words in NO_MEMORY)
