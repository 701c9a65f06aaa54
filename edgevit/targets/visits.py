"""Facts about the hosts of this process: read once, and kept for runs while the host cannot be reached.

<cache>/targets/<hash of the target's settings>.json
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from edgevit.artifacts import sha256_of
from edgevit.disks import cache_folder, whole_or_not_at_all
from edgevit.errors import MissingDependency, TargetError
from edgevit.targets.agent_session import AgentSession
from edgevit.targets.boards import HostFacts, Probe, host_facts, probe_from_json
from edgevit.targets.boards.request import WITHOUT_TELEMETRY
from edgevit.targets.named import NamedTarget
from edgevit.targets.probing import probed
from edgevit.targets.reach import reached

LONGEST_BYTES = 2**24  # of a kept file

_seen: dict[NamedTarget, HostFacts] = {}


def facts_of(target: NamedTarget, say: Callable[[str], None]) -> HostFacts:
    """What is known of a host. It is asked at the first call in a process.

    If the host cannot be reached, the facts of the last visit are taken, and `say` is told. So a finished recipe can be
    looked at without the host.

    Raises:
        TargetError: the host cannot be reached, and never was.
    """
    if target not in _seen:
        try:
            with reached(target) as session:
                return keep_facts(target, session)
        except (TargetError, MissingDependency) as error:
            kept = _kept(target)
            if kept is None:
                raise
            say(f"note: {target.name} cannot be reached ({error.what}): it is taken to be as it was at the last visit")
            _seen[target] = kept
    return _seen[target]


def known(target: NamedTarget) -> HostFacts | None:
    """What this process knows of a host. It is not asked."""
    return _seen.get(target)


def forget() -> None:
    """Ask each host anew."""
    _seen.clear()


def keep_facts(target: NamedTarget, session: AgentSession) -> HostFacts:
    """Ask a host for its facts, and keep them. Where the cache folder cannot be written, only this process has them.

    If a program there does not answer in time, the host is asked once more. Incomplete facts are not kept. Telemetry is
    not watched.
    """
    probe = probed(session, WITHOUT_TELEMETRY)
    if host_facts(probe).silent:
        probe = probed(session, WITHOUT_TELEMETRY)
    facts = host_facts(probe)
    if facts.silent:
        return facts
    _seen[target] = facts
    file = _file(target)
    if file is not None:
        with suppress(OSError), whole_or_not_at_all(file) as part:
            part.write_text(json.dumps(asdict(probe)) + "\n", encoding="utf-8")
    return facts


def _kept(target: NamedTarget) -> HostFacts | None:
    file = _file(target)
    try:
        if file is None or file.stat().st_size > LONGEST_BYTES:
            return None
        return host_facts(_probe_in(file, target.name))
    except (OSError, ValueError, TargetError):
        return None


def _probe_in(file: Path, name: str) -> Probe:
    return probe_from_json(json.loads(file.read_bytes()), name)


def _file(target: NamedTarget) -> Path | None:
    """The file of what was seen at the last visit; None of this machine, which can always be asked."""
    folder, machine = cache_folder(), target.machine
    if folder is None or machine.is_here:
        return None
    return folder / "targets" / f"{sha256_of(machine.model_dump())[:40]}.json"
