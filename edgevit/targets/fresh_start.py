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
from edgevit.errors import TargetError, shortened
from edgevit.profiling import MeasurePlan
from edgevit.profiling.loop import Start
from edgevit.runtimes.base import SessionOptions
from edgevit.targets.shipped import WORKER, WORKER_FILES
from edgevit.targets.worker_requests import MODEL, input_file, one_file, side_for_worker

LIMIT_S = 60.0  # of the child: the model has run in this process before, so its files are in memory. Chosen


def fresh_start(model: Artifact, options: SessionOptions, plan: MeasurePlan, limit_s: float = LIMIT_S) -> Start:
    """Start a model anew, in the worker, which holds no torch.

    Raises:
        TargetError: it did not start, or not within `limit_s`.
    """
    try:
        with TemporaryDirectory() as name:
            ended = _worker_in(Path(name), model, options, plan, limit_s)
            if ended.returncode == 0:
                return Start(*json.loads((Path(name) / "result.json").read_text(encoding="utf-8"))["start"])
    except subprocess.TimeoutExpired:
        raise _not_started(f"no answer within {limit_s:g} s") from None
    except OSError as error:  # such as a full disk
        raise _not_started(str(error)) from error
    raise _not_started((ended.stderr.strip().splitlines() or [f"exit status {ended.returncode}"])[-1])


def _worker_in(
    folder: Path, model: Artifact, options: SessionOptions, plan: MeasurePlan, limit_s: float
) -> subprocess.CompletedProcess[str]:
    """The worker, which has ended."""
    for file, source in WORKER_FILES.items():
        # A script finds its neighbors beside its own file, not beside a link.
        shutil.copyfile(source, folder / file)
    os.symlink(one_file(model, folder).absolute(), folder / MODEL)
    given = input_file(model.io, plan, folder)
    side = side_for_worker(model, MODEL, given.name)
    request = {"do": "start", "threads": options.threads_here, "plan": vars(plan), **side}
    (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
    command = [sys.executable, "-B", WORKER]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=limit_s, check=False)


def _not_started(reason: str) -> TargetError:
    return TargetError(f"the model did not start in a process of its own: {shortened(reason)}")
