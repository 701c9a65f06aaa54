"""`edgevit devices check`: what is on a target, and what is missing there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from edgevit.configs.runtimes import TENSORRT
from edgevit.configs.targets import LOCAL_GPU
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
        return CheckedDevice(target.name, facts, tuple(_of_local(target.name, facts)))
    looked_at = findings(facts, target.config.runtime)
    return CheckedDevice(target.name, facts, (*looked_at, *asked(target.config, facts)))


def _of_local(name: str, facts: HostFacts) -> Iterator[Finding]:
    """What was looked at on this machine. The target local-gpu needs a GPU, and TensorRT only for engines."""
    is_gpu = name == LOCAL_GPU
    for finding in findings(facts, TENSORRT.name if is_gpu and facts.has_nvidia_gpu else None):
        if is_gpu and finding.name == "gpu" and finding.state == "absent":
            yield Finding("gpu", "missing", finding.found, "install NVIDIA's driver, or use local-cpu")
        elif is_gpu and finding.name == "tensorrt" and finding.state == "missing":
            yield replace(finding, state="absent")
        else:
            yield finding
