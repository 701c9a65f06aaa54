"""`edgevit devices check`: what is on a target, and what is missing there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from edgevit.findings import Finding
from edgevit.targets.asked import asked
from edgevit.targets.boards import HostFacts, findings, host_facts
from edgevit.targets.named import NamedTarget
from edgevit.targets.probing import probed
from edgevit.targets.reach import reached


@dataclass(frozen=True)
class CheckedDevice:
    """A target as it was found.

    Attributes:
        facts: what its agent read.
        findings: what was looked at, each gap with the command that mends it.
    """

    name: str
    facts: HostFacts
    findings: tuple[Finding, ...]


def check_device(target: NamedTarget) -> CheckedDevice:
    """Connect to a target and look at what is there.

    Raises:
        TargetError: the target cannot be reached, or its answer cannot be read.
    """
    with reached(target) as session:
        facts = host_facts(probed(session))
    if target.config is None:
        return CheckedDevice(target.name, facts, tuple(_of_local(target.name, findings(facts))))
    looked_at = findings(facts, target.config.runtime)
    return CheckedDevice(target.name, facts, (*looked_at, *asked(target.config, facts)))


def _of_local(name: str, looked_at: Iterable[Finding]) -> Iterator[Finding]:
    """What was looked at on this machine. The target local-gpu needs a GPU."""
    for finding in looked_at:
        if name == "local-gpu" and finding.name == "gpu" and finding.state == "absent":
            yield Finding("gpu", "missing", finding.found, "install NVIDIA's driver, or use local-cpu")
        else:
            yield finding
