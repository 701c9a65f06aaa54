"""The meter of this machine: other load, clocks, heat and throttling while a model is timed in this process."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any

from edgevit.profiling import MeasurePlan, SpanReading
from edgevit.targets.agent.sampler import Sampler, at_rest
from edgevit.targets.boards.facts import COMPATIBLE, module_and_board
from edgevit.targets.sampling import conditions_of_telemetry, telemetry_in

ROOT = "EDGEVIT_METER_ROOT"  # a variable: the folder below which the files of the machine lie; its own if it is not set


class MachineMeter:
    """Samples the state of this machine, as the agent's sampler does on other machines. It runs in a thread.

    Args:
        root: the folder below which the files of the machine lie; by default that of ROOT.
    """

    def __init__(self, root: str | None = None) -> None:
        self._root = os.environ.get(ROOT, "") if root is None else root
        self._program = os.getpid()
        self._idle: dict[str, Any] | None = None

    def follow(self, program: int) -> None:
        """Take a process for the one whose work is measured, in place of this one. Both are no load of others."""
        self._program = program

    def rest(self, plan: MeasurePlan) -> None:
        self._idle = at_rest(plan.idle_s, self._root)

    def start(self, plan: MeasurePlan) -> None:
        self._sampler = Sampler(self._program, time.monotonic(), self._root)

    def stop(self) -> SpanReading:
        content = json.dumps({**self._sampler.ended(), "written": {}, "idle": self._idle}).encode()
        telemetry = telemetry_in(content, ends_with="", counted_s=math.inf, total_rails=self._total_rails())
        return SpanReading(conditions_of_telemetry(telemetry), telemetry=telemetry)

    def _total_rails(self) -> tuple[str, ...]:
        """The power rails of the whole module, if this machine is a known board."""
        try:
            names = Path(f"{self._root}{COMPATIBLE}").read_text(encoding="utf-8", errors="replace")
        except OSError:  # a machine without a device tree
            return ()
        _, board = module_and_board({COMPATIBLE: names})
        return board.total_rails if board else ()
