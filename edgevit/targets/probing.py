"""Ask a target's agent for its files, commands and packages."""

from __future__ import annotations

from collections.abc import Sequence

from edgevit.targets.agent_session import ANSWER_S, AgentSession
from edgevit.targets.boards import PROBED_COMMANDS, PROBED_FILES, Probe, probe_from_json
from edgevit.targets.boards.probe import ProbedCommand

PROBED_PACKAGES = ("onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "torch", "numpy", "Pillow")


def probed(session: AgentSession, commands: Sequence[ProbedCommand] = PROBED_COMMANDS, **stand_in: str) -> Probe:
    """What the target's files and commands say now.

    Args:
        stand_in: `root` and `path`, for a stand-in of a machine (see the agent's `probe`).

    Raises:
        TargetError: the answer is not a probe.
    """
    answer = session.ask_for_json(
        "probe",
        ANSWER_S + sum(command.timeout_s for command in commands),
        files=list(PROBED_FILES),
        commands=[{"arguments": list(command.arguments), "timeout_s": command.timeout_s} for command in commands],
        packages=list(PROBED_PACKAGES),
        **stand_in,
    )
    return probe_from_json(answer, session.where)
