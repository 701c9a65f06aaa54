"""`edgevit devices check`: what is on a target, and what is missing there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from edgevit.configs.targets import INSTALLED, SshTarget
from edgevit.findings import Finding
from edgevit.targets.boards import HostFacts, findings, host_facts
from edgevit.targets.boards.host_findings import PERFORMANCE
from edgevit.targets.boards.nvpmodel import plain_name
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
    return CheckedDevice(target.name, facts, (*looked_at, *_wanted(target.config, facts)))


def _wanted(config: SshTarget, facts: HostFacts) -> Iterator[Finding]:
    """What targets.yaml asks of the target, held against the facts."""
    if config.onnxruntime == INSTALLED and not {"onnxruntime", "onnxruntime-gpu"} & set(facts.system.packages):
        found = f"installed in targets.yaml, and not in {facts.system.executable}"
        yield Finding("onnxruntime asked", "missing", found, "leave onnxruntime out: edgevit brings it along")
    if config.power_mode is not None:
        yield _wanted_power_mode(config.power_mode, facts)
    if config.clocks == "lock" and (gap := _gap_of_lock(facts)):
        yield gap


def _of_local(name: str, looked_at: Iterable[Finding]) -> Iterator[Finding]:
    """What was looked at on this machine. The target local-gpu needs a GPU."""
    for finding in looked_at:
        if name == "local-gpu" and finding.name == "gpu" and finding.state == "absent":
            yield Finding("gpu", "missing", finding.found, "install NVIDIA's driver, or use local-cpu")
        else:
            yield finding


def _gap_of_lock(facts: HostFacts) -> Finding | None:
    name = "clocks asked"
    if facts.are_clocks_steady:
        return None
    if facts.clocks_locked is None:
        return Finding(name, "missing", "locked in targets.yaml, but the clock cannot be read", "set clocks: leave")
    mend = "sudo jetson_clocks" if facts.kind == "jetson" else PERFORMANCE
    return Finding(name, "missing", "locked in targets.yaml, not locked there", mend)


def _wanted_power_mode(asked: str, facts: HostFacts) -> Finding:
    name = "power mode asked"
    if facts.power_mode is None:
        return Finding(name, "missing", f"{asked}, but the target names no power mode", "leave power_mode out")
    if plain_name(facts.power_mode.name) == plain_name(asked):
        return Finding(name, "ok", asked)
    known = [mode for mode in facts.power_modes if mode.id is not None]
    by_name = {plain_name(mode.name): mode for mode in known}
    if mode := by_name.get(plain_name(asked)):
        mend = f"sudo nvpmodel -m {mode.id}"
    else:
        mend = f"choose one that it has: {', '.join(mode.name for mode in known) or 'sudo nvpmodel -q'}"
    return Finding(name, "missing", f"{asked}, but it is in {facts.power_mode.name}", mend)
