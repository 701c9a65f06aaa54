"""The meter of this machine: other load, clocks, heat and throttling while a model is timed in this process."""

from __future__ import annotations

import json
import math
import os
import time

from edgevit.profiling import MeasurePlan, SpanReading
from edgevit.targets.agent.sampler import Sampler
from edgevit.targets.sampling import conditions_of_telemetry, telemetry_in

ROOT = "EDGEVIT_METER_ROOT"  # a variable: the folder below which the files of the machine lie; its own if it is not set


class MachineMeter:
    """Samples the state of this machine, as the agent's sampler does on other machines. It runs in a thread.

    Args:
        program: the process whose work is no load of others; by default this one. Its children, and those of this one,
            are no load of others either.
        root: the folder below which the files of the machine lie; by default that of ROOT.
    """

    def __init__(self, root: str | None = None, program: int | None = None) -> None:
        self._program = program or os.getpid()
        self._root = os.environ.get(ROOT, "") if root is None else root

    def start(self, plan: MeasurePlan) -> None:
        self._sampler = Sampler(self._program, time.monotonic(), self._root)

    def stop(self) -> SpanReading:
        content = json.dumps({**self._sampler.ended(), "written": {}}).encode()
        telemetry = telemetry_in(content, ends_with="", counted_s=math.inf, total_rails=())
        return SpanReading(conditions_of_telemetry(telemetry), telemetry=telemetry)
