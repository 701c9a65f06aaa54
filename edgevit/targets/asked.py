"""What targets.yaml asks of a target, held against what is there."""

from __future__ import annotations

from collections.abc import Iterator

from edgevit.configs.targets import INSTALLED, MachineTarget, TensorrtChoice
from edgevit.errors import TargetError
from edgevit.findings import Finding
from edgevit.targets.boards import HostFacts
from edgevit.targets.boards.host_findings import PERFORMANCE
from edgevit.targets.boards.nvpmodel import plain_name
from edgevit.targets.tensorrt_tools import tools_of


def asked(config: MachineTarget, facts: HostFacts) -> Iterator[Finding]:
    """What targets.yaml asks of the target, held against the facts."""
    if config.onnxruntime == INSTALLED and facts.system.onnxruntime is None:
        found = f"installed in targets.yaml, and not in {facts.system.executable}"
        yield Finding("onnxruntime asked", "missing", found, "leave onnxruntime out: edgevit brings it along")
    if config.tensorrt is not None and (gap := _gap_of_tensorrt(config.tensorrt, facts)):
        yield gap
    if config.power_mode is not None:
        yield _wanted_power_mode(config.power_mode, facts)
    if config.clocks == "lock" and (gap := _gap_of_lock(facts)):
        yield gap


def _gap_of_tensorrt(choice: TensorrtChoice, facts: HostFacts) -> Finding | None:
    try:
        tools_of(facts, choice, "")
    except TargetError as error:
        found = f"{choice} in targets.yaml: {error.got}"
        return Finding("tensorrt asked", "missing", found, f"{error.next}, or leave tensorrt out")
    return None


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
