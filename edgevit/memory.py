"""Memory for tensors on the CPU."""

from __future__ import annotations

import ctypes
import os
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
# Variables by which a user sets what glibc keeps. They are respected.
SET_BY_USER = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")

_lock = Lock()
_users = 0


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Context in which the process keeps the memory that it frees, for its next tensors. Also a decorator.

    glibc gives blocks above a limit, at most 32 MiB, back to the system as soon as they are freed. The system then
    clears every page of the next tensor of this size. This can take two fifths of a network's time
    (`benchmarks/kept_memory.py`). What was freed inside is given back at the end. Contexts may be nested, and threads
    share them; blocks of more than 64 MiB are kept in the main thread only. Nothing changes without glibc, or if one of
    SET_BY_USER is set.
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
    """The process's C library, if it is glibc and the user sets nothing."""
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in SET_BY_USER):
        return None
    glibc = ctypes.CDLL(None)
    glibc.mallopt.argtypes = [ctypes.c_int, ctypes.c_int]
    glibc.malloc_trim.argtypes = [ctypes.c_size_t]
    return glibc


def _forked() -> None:
    """In a forked process, such as a loader of images: give memory back. Another thread may have held the lock."""
    global _lock
    _lock = Lock()
    if _users:
        _set(GIVE_BACK)


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forked)
