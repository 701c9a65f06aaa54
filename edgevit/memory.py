"""Memory for tensors on the CPU."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock

# Parameters of glibc's mallopt(3).
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
KEEP = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1}  # no block of its own from the system, and none is given back
# glibc's own values, once blocks of 32 MiB have been freed. mallopt ends their adaptation to the blocks.
GIVE_BACK = {M_MMAP_MAX: 65_536, M_MMAP_THRESHOLD: 32 << 20, M_TRIM_THRESHOLD: 64 << 20}

_lock = Lock()
_users = 0


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Context in which the process keeps the memory that it frees, for its next tensors.

    glibc gives blocks of more than 32 MiB back to the system as soon as they are freed. The system then clears every
    page of the next tensor of this size, which can take half of a network's time (`benchmarks/kept_memory.py`). The
    memory is given back at the end. Contexts may be nested, also in threads. Without glibc, nothing changes.
    """
    global _users
    with _lock:
        _users += 1
        if _users == 1:
            _set(KEEP)
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                _set(GIVE_BACK)
                _trim()


def _set(options: dict[int, int]) -> None:
    glibc = _glibc()
    if glibc is not None:
        for name, value in options.items():
            glibc.mallopt(name, value)


def _trim() -> None:
    """Give all freed memory back to the system."""
    glibc = _glibc()
    if glibc is not None:
        glibc.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    """The process's C library, if it is glibc."""
    if platform.libc_ver()[0] != "glibc":
        return None
    glibc = ctypes.CDLL(None)
    glibc.malloc_trim.argtypes = [ctypes.c_size_t]
    return glibc
