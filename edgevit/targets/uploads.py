"""Files on a target by their hash: only the missing ones are sent, and a broken upload goes on where it stopped."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

from pydantic import Field

from edgevit.artifacts import Frozen
from edgevit.errors import TargetError
from edgevit.targets.agent import protocol
from edgevit.targets.agent_session import AgentSession, Refused

Hashes = Mapping[Path, str]  # the SHA-256 of files
R = TypeVar("R")

CACHE_BYTES = 8 * 2**30  # that edgevit keeps on a target
CHUNK_S = 120  # for one chunk, on a slow line
TRIES = 2

_Size = Field(ge=0, le=protocol.LARGEST_FILE)


class _Missing(Frozen):
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    have: int = _Size


class _MissingFiles(Frozen):
    missing: list[_Missing] = Field(max_length=protocol.MOST_HASHES)
    stored_bytes: int = Field(ge=0)
    free_bytes: int | None = Field(ge=0)


class _Put(Frozen):
    have: int = _Size
    is_whole: bool


class Evicted(Frozen):
    """What an eviction has removed, and what is left."""

    removed_bytes: int = Field(ge=0)
    stored_bytes: int = Field(ge=0)


class _Cleaned(Frozen):
    removed_bytes: int = Field(ge=0)


@dataclass(frozen=True)
class _File:
    path: Path
    sha256: str
    bytes: int


def upload(session: AgentSession, hashes: Hashes, cache_bytes: int = CACHE_BYTES, keep: Iterable[str] = ()) -> None:
    """Send the files that the target lacks. What was not used there for the longest time makes room for them.

    Args:
        hashes: the files with their hashes, by which requests name them.
        cache_bytes: how much is kept there at most; what this upload names stays.
        keep: names of packages and jobs that stay.

    Raises:
        TargetError: the disk there is full, a file changed meanwhile, or the connection broke. The next upload sends
            the rest.
    """
    files = [_File(path, name, path.stat().st_size) for path, name in hashes.items()]
    wanted = {file.sha256: file for file in files}
    answer = _missing(session, wanted)
    needed = _needed(answer, wanted)
    most = _most_stored(answer, needed, cache_bytes)
    if needed and answer.stored_bytes > most:
        evict(session, most, keep=[*wanted, *keep])
        answer = _missing(session, wanted)
        needed = _needed(answer, wanted)
    if answer.free_bytes is not None and needed > answer.free_bytes:
        got = f"{answer.free_bytes / 2**20:,.0f} MiB free"
        next_step = "free some space there, or give the target another work_folder"
        expected = f"{needed / 2**20:,.0f} MiB"
        raise TargetError(
            "the target's disk has no room", where=session.where, got=got, expected=expected, next=next_step
        )
    for part in answer.missing:
        _send(session, wanted[part.sha256], part.have)


def with_files(session: AgentSession, hashes: Hashes, ask: Callable[[], R], keep: Iterable[str] = ()) -> R:
    """The answer to a request that names files. If the target lacks one, the missing ones are sent first.

    If its disk is full, what edgevit keeps there otherwise makes room.

    Args:
        keep: names of packages and jobs that stay.

    Raises as `upload` and `ask`.
    """
    for _ in range(TRIES):
        try:
            return ask()
        except Refused as refused:
            if refused.failure.kind == "disk_full":
                evict(session, 0, keep=[*hashes.values(), *keep])
            elif refused.failure.kind == "missing_file":
                upload(session, hashes, keep=keep)
            else:
                raise
    return ask()


def hashes_of(paths: Iterable[Path]) -> dict[Path, str]:
    """The SHA-256 of each file."""
    return {path: _sha256(path) for path in dict.fromkeys(paths)}


def evict(session: AgentSession, limit_bytes: int, keep: Iterable[str] = ()) -> Evicted:
    """Remove what was not used for the longest time, until the rest fits the limit. Running jobs stay.

    Args:
        keep: hashes of files, and names of packages and jobs, that stay in any case.
    """
    return session.ask("evict", Evicted, limit_bytes=limit_bytes, keep=list(keep))


def clean(session: AgentSession) -> int:
    """Remove everything that edgevit keeps there, but running jobs and what they use. Gives the bytes."""
    return session.ask("clean", _Cleaned).removed_bytes


def _missing(session: AgentSession, wanted: dict[str, _File]) -> _MissingFiles:
    files = [{"sha256": file.sha256, "bytes": file.bytes} for file in wanted.values()]
    answer = session.ask("missing", _MissingFiles, files=files)
    for part in answer.missing:
        if part.sha256 not in wanted or part.have > wanted[part.sha256].bytes:
            what = "the target lacks a file that it was not asked for"
            raise TargetError(what, where=session.where, got=part.sha256)
    return answer


def _needed(answer: _MissingFiles, wanted: dict[str, _File]) -> int:
    """The bytes to send."""
    return sum(wanted[part.sha256].bytes - part.have for part in answer.missing)


def _most_stored(answer: _MissingFiles, needed: int, cache_bytes: int) -> int:
    """The bytes that may stay there, so that the needed ones fit the cache and the disk."""
    most = cache_bytes - needed
    if answer.free_bytes is not None:
        most = min(most, answer.stored_bytes + answer.free_bytes - needed)
    return max(0, most)


def _send(session: AgentSession, file: _File, have: int) -> None:
    """Send a file from byte `have` on. A part with other content there is sent anew."""
    for _ in range(TRIES):
        try:
            with file.path.open("rb") as content:
                return _send_from(session, file, content, have)
        except Refused as refused:
            if refused.failure.kind != "wrong_hash":
                raise
            have = 0
    what = "the file changed while it was sent"
    raise TargetError(what, where=session.where, got=file.path, next="run the same command again")


def _send_from(session: AgentSession, file: _File, content: IO[bytes], have: int) -> None:
    while True:
        content.seek(have)
        chunk = content.read(min(protocol.LARGEST_CHUNK, file.bytes - have))
        answer = _put(session, file, have, chunk)
        if answer.is_whole:
            return
        if answer.have <= have:
            what = "the upload does not go on"
            raise TargetError(what, where=session.where, got=file.path, next="run the same command again")
        have = answer.have


def _put(session: AgentSession, file: _File, have: int, chunk: bytes) -> _Put:
    """The answer to a chunk. Where another client has sent more of the file meanwhile, it says how much is there."""
    try:
        data = base64.b64encode(chunk).decode("ascii")
        return session.ask(
            "put", _Put, CHUNK_S, sha256=file.sha256, bytes=file.bytes, offset=have, data=data
        )  # fmt: skip
    except Refused as refused:
        if refused.failure.kind == "wrong_offset" and refused.failure.have is not None:
            return _Put(have=refused.failure.have, is_whole=False)
        raise


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
