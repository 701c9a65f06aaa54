"""The lock of a machine: one client at a time measures there."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
import time

from edgevit.targets.agent.probe import ROOT
from edgevit.targets.agent.protocol import LONGEST_NAME, Json, Refused, text_in

LOCK = "/tmp/edgevit.lock"  # one for all users of the machine


class MachineLock:
    """The lock, which is free again when this process ends.

    Attributes:
        is_left: whether an earlier agent of this client holds it. It does so until its job has ended.
    """

    def __init__(self) -> None:
        self._lock: int | None = None
        self.is_left = False

    @property
    def is_held(self) -> bool:
        """Whether this process holds it."""
        return self._lock is not None

    def take(self, request: Json) -> Json:
        """Take the lock, or say who holds it.

        Args:
            request: `by`, who takes it, for others; `client`, something secret by which the client knows itself.
        """
        client = text_in(request, "client", "")
        holder = {"by": text_in(request, "by"), "since": time.time(), "client": client}
        root = text_in(request, "root", os.environ.get(ROOT, ""))
        if self._lock is not None:
            return {"held": True, "holder": None}
        lock = open_lock(root + LOCK)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            try:
                other = holder_from(os.pread(lock, LONGEST_NAME * 8, 0), client)
            finally:
                os.close(lock)
            self.is_left = other is not None and other["is_own"]
            return {"held": False, "holder": other}
        self._lock, self.is_left = lock, False
        with contextlib.suppress(OSError):  # the file of another user is locked without a name in it
            os.ftruncate(lock, 0)
            os.pwrite(lock, json.dumps(holder).encode(), 0)
        return {"held": True, "holder": None}

    def release(self) -> Json:
        """Free the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        self.is_left = False
        return {}


def open_lock(path: str) -> int:
    """The open lock file, which any user of the machine may lock."""
    flags = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    for _ in range(10):
        try:
            lock = os.open(path, flags | os.O_RDWR)
        except FileNotFoundError:
            try:
                lock = os.open(path, flags | os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
                os.fchmod(lock, 0o666)
            except FileExistsError:
                continue  # another client was faster
        except PermissionError:
            lock = os.open(path, flags | os.O_RDONLY)
        if not stat.S_ISREG(os.fstat(lock).st_mode):
            os.close(lock)
            raise Refused("system", f"{path} is no plain file")
        return lock
    raise Refused("system", f"{path} comes and goes")


def holder_from(content: bytes, client: str) -> Json | None:
    """Who holds the lock, for how many seconds, and whether it is this client; None if nothing readable is written."""
    try:
        holder = json.loads(content)
        since = min(time.time(), max(0.0, float(holder["since"])))
        is_own = bool(client) and holder.get("client") == client
        return {"by": str(holder["by"])[:LONGEST_NAME], "for_s": time.time() - since, "is_own": is_own}
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
