"""Facts about boards, read from text: what to ask a machine, and what its answer means. Nothing here does I/O."""

from edgevit.targets.boards.facts import HostFacts, facts_json, host_facts
from edgevit.targets.boards.host_findings import findings
from edgevit.targets.boards.probe import CommandAnswer, Probe, ProbedCommand, System, probe_from_json
from edgevit.targets.boards.request import PROBED_COMMANDS, PROBED_FILES

__all__ = [
    "PROBED_COMMANDS",
    "PROBED_FILES",
    "CommandAnswer",
    "HostFacts",
    "Probe",
    "ProbedCommand",
    "System",
    "facts_json",
    "findings",
    "host_facts",
    "probe_from_json",
]
