"""A model on a machine over SSH: the cost of profiling there, the bytes that travel, and the time to the first report.

    python -m benchmarks.ssh_target [--minutes 7]

The machine is this one, over an OpenSSH server on the loopback interface. The bare loop shares no code with edgevit: a
process of its own with the same Python and packages, one thread, one image, perf_counter around each run.

Each round times the bare loop, `profile` and the bare loop again, in all orders by turns, each in a new process: starts
of one program differ by more than the cost. A round counts if no other program and no host kept the processors busy
during its three timings, by the processor time that the kernel counts. The ratio of the two bare loops shows the
scatter without any cost. Ratios are Hodges and Lehmann's estimate over the rounds, with Wilcoxon's 95% interval.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.common import publish
from edgevit.actions.single_stage import SingleStages, single_stages
from edgevit.artifacts import Artifact
from edgevit.configs import Export, Load
from edgevit.context import Context
from edgevit.profiling import MeasurePlan, telemetry
from edgevit.profiling.statistics import ratio_over_starts
from edgevit.runtimes.base import SessionOptions
from edgevit.targets import target_for, target_info
from edgevit.targets.channel import Channel, Deadline
from tests.targets.ssh_host import SshHost, ssh_host

WARMUP_S, DURATION_S = 0.3, 1.0  # starts scatter more than the runs of a start: many short timings
IMAGE_SIZE = 96  # pixels: a run takes some milliseconds, so a timing has hundreds of them
FEWEST_ROUNDS = 6  # for an interval
IMAGES = 200
BARE = """
import json, sys, time, numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
image = numpy.random.default_rng(0).normal(size=(1, 3, int(sys.argv[2]), int(sys.argv[2]))).astype("float32")
name = session.get_inputs()[0].name
def ticks():
    with open("/proc/stat") as file:
        return [int(word) for word in file.readline().split()[1:9]]
end = time.perf_counter() + float(sys.argv[3])
while time.perf_counter() < end:
    session.run(None, {name: image})
before, own, begin = ticks(), time.process_time(), time.perf_counter()
times, end = [], begin + float(sys.argv[4])
while time.perf_counter() < end:
    start = time.perf_counter()
    session.run(None, {name: image})
    times.append((time.perf_counter() - start) * 1e3)
seconds, own, after = time.perf_counter() - begin, time.process_time() - own, ticks()
p50 = sorted(times)[(len(times) - 1) // 2]
print(json.dumps({"p50_ms": p50, "seconds": seconds, "own_s": own, "before": before, "after": after}))
"""
RECIPE = """
name: first
datasets:
  digits: {source: digits}
stages:
  - {stage: load, id: student, model: deit_tiny_patch16_224, classes_of: digits.test}
  - {stage: export, id: onnx, model: student}
  - {stage: profile, id: latency, model: onnx, target: board}
  - {stage: report, id: report, of: [latency]}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=7, help="of the rounds; the rest takes two minutes")
    minutes = parser.parse_args().minutes
    with tempfile.TemporaryDirectory() as folder, _host(Path(folder)) as host, single_stages(Context()) as stages:
        result: dict[str, Any] = {"first_report_s": _first_report_s(host, Path(folder))}
        small, model = _student(stages, IMAGE_SIZE), _student(stages, 224)
        result |= {"board": target_info("board", "onnxruntime", Context()), **_cost(small, host, minutes)}
        result |= {"model_bytes": model.metrics["size_bytes"], "sent_bytes": _sent_bytes(model, host)}
    publish("ssh_target", result)


@contextmanager
def _host(folder: Path) -> Iterator[SshHost]:
    """The server; everything of edgevit's lies in the folder."""
    os.environ.update(XDG_CONFIG_HOME=str(folder / "xdg"), EDGEVIT_CACHE=str(folder / "cache"))
    with ssh_host(folder) as host:
        host.accept("user_key")
        host.know("host_key")
        os.environ["PATH"] = host.path
        yield host


def _first_report_s(host: SshHost, folder: Path) -> dict[str, float]:
    """Wall seconds of each command from `devices add` to the first report. pip gets the wheels in the first run."""
    (folder / "first.yaml").write_text(RECIPE)
    edgevit, work = str(Path(sys.executable).with_name("edgevit")), str(host.home / "work")
    commands = {
        "add": ["devices", "add", "board", host.address, "--python", sys.executable, "--work-folder", work],
        "check": ["devices", "check", "board"],
        "run": ["run", str(folder / "first.yaml"), "--runs", str(folder / "runs")],
        "run again": ["run", str(folder / "first.yaml"), "--runs", str(folder / "again")],
    }
    seconds = {}
    for name, arguments in commands.items():
        start = time.perf_counter()
        subprocess.run([edgevit, *arguments], check=True, capture_output=True)
        seconds[name] = time.perf_counter() - start
    return seconds


def _student(stages: SingleStages, image_size: int) -> Artifact:
    names = tuple(str(index) for index in range(10))
    load = {"stage": "load", "id": "model", "model": "deit_tiny_patch16_224", "classes": names}
    loaded = stages.make(Load.model_validate({**load, "image_size": image_size}))
    return stages.make(Export(stage="export", id="onnx", model="model"), model=loaded)


class _Timing(NamedTuple):
    """A p50, and whether something else kept the processors busy."""

    p50_ms: float
    is_disturbed: bool


def _cost(model: Artifact, host: SshHost, minutes: float) -> dict[str, Any]:
    """`profile`'s p50 over that of the bare loop; and that of one bare loop over another one."""
    (packages,) = (host.home / "work" / "packages").iterdir()
    environment = {**os.environ, "PYTHONPATH": str(packages)}
    arguments = [str(model.file("model.onnx")), str(IMAGE_SIZE), str(WARMUP_S), str(DURATION_S)]
    rounds: list[dict[str, _Timing]] = []
    with target_for("board", Context()).open(model, SessionOptions()) as session:

        def bare() -> _Timing:
            command = [sys.executable, "-c", BARE, *arguments]
            # A session of its own, as sshd gives to each client: Linux shares the processors out between sessions.
            ended = subprocess.run(
                command, env=environment, check=True, capture_output=True, text=True, start_new_session=True
            )
            return _timing_of_bare(json.loads(ended.stdout))

        def profiled() -> _Timing:
            measured = session.measure(MeasurePlan(WARMUP_S, DURATION_S, min_runs=1))  # a new process there
            load = measured.telemetry.load if measured.telemetry else None
            return _Timing(measured.percentile_ms(50), load is None or _is_disturbing(load))

        turns, end = {"bare": bare, "profile": profiled, "bare again": bare}, time.monotonic() + 60 * minutes
        for order in itertools.cycle(itertools.permutations(turns)):
            if time.monotonic() > end:
                break
            rounds.append({name: turns[name]() for name in order})
    quiet = [timings for timings in rounds if not any(timing.is_disturbed for timing in timings.values())]
    result: dict[str, Any] = {
        "rounds": len(rounds),
        "quiet_rounds": len(quiet),
        "p50_ms": [{name: timing._asdict() for name, timing in timings.items()} for timings in rounds],
    }
    if len(rounds) < FEWEST_ROUNDS:
        sys.exit(f"{len(rounds)} rounds give no interval: give more --minutes")
    if len(quiet) < FEWEST_ROUNDS:
        print(f"only {len(quiet)} of {len(rounds)} rounds were undisturbed: all are counted", file=sys.stderr)
        quiet = rounds
    bares = [(timings["bare"].p50_ms, timings["bare again"].p50_ms) for timings in quiet]
    costs = [timings["profile"].p50_ms / math.sqrt(a * b) for timings, (a, b) in zip(quiet, bares, strict=True)]
    return {**result, "ratio": _ratio(costs), "ratio_of_bare_loops": _ratio([b / a for a, b in bares])}


def _timing_of_bare(printed: dict[str, Any]) -> _Timing:
    ticks = [after - before for before, after in zip(printed["before"], printed["after"], strict=True)]
    user, nice, system, idle, waiting, interrupts, soft_interrupts, stolen = (one * telemetry.TICK_S for one in ticks)
    busy = user + nice + system + interrupts + soft_interrupts
    capacity = busy + idle + waiting + stolen
    load = telemetry.Load(printed["seconds"], capacity, printed["own_s"], busy - printed["own_s"], stolen)
    return _Timing(printed["p50_ms"], _is_disturbing(load))


def _is_disturbing(load: telemetry.Load) -> bool:
    return load.is_stolen or load.is_disturbing("cpu")


def _ratio(ratios: list[float]) -> dict[str, float]:
    value, interval = ratio_over_starts(ratios)
    return {"value": value, "low": interval.low, "high": interval.high}


def _sent_bytes(model: Artifact, host: SshHost) -> dict[str, int]:
    """Bytes that go through the connection to the target, before SSH encrypts them."""
    for file in (host.home / "work" / "files").iterdir():
        file.unlink()
    generator = np.random.default_rng(0)
    images = list(generator.integers(0, 256, (IMAGES, 240, 320, 3), dtype=np.uint8))
    sent = 0
    send = Channel.send

    def counted(channel: Channel, content: bytes, deadline: Deadline) -> None:
        nonlocal sent
        sent += len(content)
        send(channel, content, deadline)

    Channel.send = counted  # type: ignore[method-assign, assignment]

    def bytes_of(profiles: bool) -> int:
        nonlocal sent
        sent = 0
        with target_for("board", Context()).open(model, SessionOptions()) as session:
            if profiles:
                session.measure(MeasurePlan(duration_s=0.1, min_runs=10))
            else:
                list(session.outputs(images, 32))
        return sent

    try:
        return {
            "profile": bytes_of(True),
            "profile again": bytes_of(True),
            f"{IMAGES} images": bytes_of(False),
            f"{IMAGES} images again": bytes_of(False),
        }
    finally:
        Channel.send = send  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
