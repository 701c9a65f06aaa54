"""Facts about boards, read from text: what to ask a machine, and what its answer means. Nothing here does I/O."""

from edgevit.targets.boards.probe import CommandAnswer, Probe, ProbedCommand, System, probe_from_json
from edgevit.targets.boards.request import PROBED_COMMANDS, PROBED_FILES

__all__ = [
    "PROBED_COMMANDS",
    "PROBED_FILES",
    "CommandAnswer",
    "Probe",
    "ProbedCommand",
    "System",
    "probe_from_json",
]
