"""A model on a machine over SSH: the cost of profiling there, the bytes that travel, and the time to the first report.

    python -m benchmarks.ssh_target [--rounds 60]

The machine is this one, over an OpenSSH server on the loopback interface. The bare loop shares no code with edgevit: a
process of its own with the same Python and packages, one thread, one image, perf_counter around each run. Rounds of the
bare loop and of edgevit take turns.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats

from benchmarks.common import publish, spread
from edgevit.actions.single_stage import single_stages
from edgevit.artifacts import Artifact
from edgevit.configs import Export, Load
from edgevit.context import Context
from edgevit.profiling import MeasurePlan
from edgevit.runtimes.base import SessionOptions
from edgevit.targets import target_for, target_info
from edgevit.targets.channel import Channel, Deadline
from tests.targets.ssh_host import SshHost, ssh_host

DURATION_S = 1.0
IMAGES = 200
BARE = """
import sys, time, statistics, numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
image = numpy.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype("float32")
name = session.get_inputs()[0].name
end = time.perf_counter() + 0.5
while time.perf_counter() < end:
    session.run(None, {name: image})
times, end = [], time.perf_counter() + float(sys.argv[2])
while time.perf_counter() < end:
    start = time.perf_counter()
    session.run(None, {name: image})
    times.append((time.perf_counter() - start) * 1e3)
print(statistics.median(times))
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
    parser.add_argument("--rounds", type=int, default=60)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder, _host(Path(folder)) as host, single_stages(Context()) as stages:
        result: dict[str, Any] = {"first_report_s": _first_report_s(host, Path(folder))}
        names = tuple(str(index) for index in range(10))
        loaded = stages.make(Load(stage="load", id="model", model="deit_tiny_patch16_224", classes=names))
        model = stages.make(Export(stage="export", id="onnx", model="model"), model=loaded)
        result |= {"board": target_info("board", "onnxruntime", Context()), **_overhead(model, host, rounds)}
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


def _overhead(model: Artifact, host: SshHost, rounds: int) -> dict[str, Any]:
    """edgevit's p50 over that of the bare loop, in each round."""
    (packages,) = (host.home / "work" / "packages").iterdir()
    environment = {**os.environ, "PYTHONPATH": str(packages)}
    command = [sys.executable, "-c", BARE, str(model.file("model.onnx")), str(DURATION_S)]
    bare, profiled = [], []

    def by_hand() -> None:
        printed = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
        bare.append(float(printed))

    with target_for("board", Context()).open(model, SessionOptions()) as session:

        def by_edgevit() -> None:
            plan = MeasurePlan(warmup_s=0.5, duration_s=DURATION_S, min_runs=1)
            profiled.append(session.measure(plan).percentile_ms(50))  # a new process there

        for number in range(rounds):
            for run in (by_hand, by_edgevit) if number % 2 == 0 else (by_edgevit, by_hand):
                run()
    ratios = np.array(profiled) / np.array(bare)
    logs = np.log(ratios)
    half = scipy.stats.t.ppf(0.975, rounds - 1) * logs.std(ddof=1) / rounds**0.5
    return {
        "bare_p50_ms": spread(bare),
        "profile_p50_ms": spread(profiled),
        "profile_over_bare": spread(ratios.tolist()),
        "mean_ratio": {
            "value": np.exp(logs.mean()),
            "low": np.exp(logs.mean() - half),
            "high": np.exp(logs.mean() + half),
        },
    }


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
