"""A model that is timed in a process of its own on this machine, as a program on a device runs it: without torch."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Timer
from typing import Any

from edgevit.artifacts import Artifact
from edgevit.errors import TargetError, shortened
from edgevit.profiling import Measurement, MeasurePlan, SpanMeter
from edgevit.profiling.loop import Runs, Soak, Start, WarmUp
from edgevit.profiling.measure import load_now, measurement_of_runs, metered, rest
from edgevit.runtimes.base import SessionOptions, check_batch
from edgevit.targets.agent.worker import COUNTED, COUNTING
from edgevit.targets.shipped import WORKER, WORKER_FILES
from edgevit.targets.worker_requests import MODEL, input_file, limit_s, one_file, side_for_worker

STDERR = "stderr"


def measure_in_process(
    model: Artifact,
    options: SessionOptions,
    plan: MeasurePlan,
    conditions: Mapping[str, Any],
    meters: Sequence[SpanMeter] = (),
    follow: Callable[[int], object] = lambda program: None,
) -> Measurement:
    """Start a model in a new process, and time it there.

    Args:
        conditions: facts about the model and the machine.
        meters: measure the span of the counted runs.
        follow: is told the number of the process.

    Raises:
        TargetError: the process failed, ended early or took too long.
    """
    check_batch(model.io, plan.batch_size)
    receipt = {**conditions, **vars(plan), **load_now()}
    rest(plan, meters)
    try:
        with TemporaryDirectory() as name, _worker_in(Path(name), model, options, plan) as worker:
            follow(worker.pid)
            _, readings = metered(lambda begin: _wait_for_runs(worker, begin), plan, meters)
            worker.communicate()
            if worker.returncode != 0:
                raise _not_timed(_reason(worker.returncode, Path(name) / STDERR))
            answer = json.loads((Path(name) / "result.json").read_text(encoding="utf-8"))
    except OSError as error:  # such as a full disk
        raise _not_timed(str(error)) from error
    soaked, start = Soak(*answer["soak"]) if answer["soak"] else None, Start(*answer["start"])
    runs = Runs(*(answer[field] for field in Runs._fields))._replace(warm_up=WarmUp(*answer["warm_up"]))
    return measurement_of_runs(runs, soaked, readings, plan, receipt, start=start)


@contextmanager
def _worker_in(
    folder: Path, model: Artifact, options: SessionOptions, plan: MeasurePlan
) -> Iterator[subprocess.Popen[str]]:
    """A worker that loads the model and times it. It is stopped at the end of the block, or after `limit_s`."""
    for file, source in WORKER_FILES.items():
        # A script finds its neighbors beside its own file, not beside a link.
        shutil.copyfile(source, folder / file)
    os.symlink(one_file(model, folder).absolute(), folder / MODEL)
    side = side_for_worker(model, MODEL, input_file(model.io, plan, folder).name)
    request = {"do": "measure", "threads": options.threads_here, "plan": vars(plan), **side, "is_attended": True}
    (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
    with (
        (folder / STDERR).open("w", encoding="utf-8") as stderr,
        subprocess.Popen(
            [sys.executable, "-B", WORKER],
            cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, encoding="utf-8",
        ) as worker,
    ):  # fmt: skip
        timer = Timer(limit_s(plan), worker.kill)
        timer.start()
        try:
            yield worker
        finally:
            timer.cancel()
            worker.kill()


def _wait_for_runs(worker: subprocess.Popen[str], begin: Callable[[], object]) -> None:
    """Wait until the counted runs, or the worker, have ended.

    Args:
        begin: is called before the counted runs; the worker waits for it.
    """
    assert worker.stdin is not None
    assert worker.stdout is not None
    for line in worker.stdout:
        if line.rstrip() == COUNTING:
            begin()
            with suppress(BrokenPipeError):  # the worker has ended
                worker.stdin.write("\n")
                worker.stdin.flush()
        elif line.rstrip() == COUNTED:
            return


def _reason(status: int, stderr: Path) -> str:
    """The reason of a worker that failed."""
    if status < 0:
        names = {one.value: one.name for one in signal.Signals}
        return f"the process was ended by {names.get(-status, f'signal {-status}')}"
    lines = stderr.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else f"exit status {status}"


def _not_timed(reason: str) -> TargetError:
    return TargetError("the model was not timed in a process of its own", got=shortened(reason))
