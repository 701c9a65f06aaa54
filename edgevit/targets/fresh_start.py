"""The start of a model in a process of its own, as a program on a device would start it: load, first run, memory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from edgevit.artifacts import Artifact
from edgevit.errors import shortened
from edgevit.profiling import MeasurePlan, SpanReading
from edgevit.profiling.loop import Start
from edgevit.runtimes.base import SessionOptions
from edgevit.targets.shipped import WORKER, WORKER_FILES
from edgevit.targets.worker_requests import MODEL, input_file, one_file, side_for_worker

LIMIT_S = 600


class FreshStart:
    """Starts the model anew when the timed runs have ended. The worker does it, which holds no torch."""

    def __init__(self, model: Artifact, options: SessionOptions) -> None:
        self._model, self._options = model, options

    def start(self, plan: MeasurePlan) -> None:
        self._plan = plan

    def stop(self) -> SpanReading:
        with TemporaryDirectory() as name:
            folder = Path(name)
            ended = self._run_in(folder)
            if ended.returncode == 0:
                answer = json.loads((folder / "result.json").read_text(encoding="utf-8"))
                return SpanReading(start=Start(*answer["start"]))
        last = (ended.stderr.strip().splitlines() or [f"exit status {ended.returncode}"])[-1]
        return SpanReading(doubts=(f"the model did not start in a process of its own: {shortened(last)}",))

    def _run_in(self, folder: Path) -> subprocess.CompletedProcess[str]:
        """The worker, which has ended."""
        for file, source in WORKER_FILES.items():
            shutil.copyfile(
                source, folder / file
            )  # a script finds its neighbors beside its own file, not beside a link
        os.symlink(one_file(self._model, folder).absolute(), folder / MODEL)
        given = input_file(self._model.io, self._plan, folder)
        side = side_for_worker(self._model, MODEL, given.name)
        request = {"do": "start", "threads": self._options.threads_here, "plan": vars(self._plan), **side}
        (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
        command = [sys.executable, "-B", WORKER]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=LIMIT_S, check=False)
