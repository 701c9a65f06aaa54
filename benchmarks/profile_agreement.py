"""`profile`'s p50 against a bare loop over ONNX Runtime and against OpenVINO's benchmark_app, interleaved.

    python -m benchmarks.profile_agreement [--rounds 10]

The bare loop shares no code with edgevit: its own session, one thread, one image, perf_counter around each run, as
onnxruntime_perf_test times it. benchmark_app runs the same file synchronously, in float32, on one thread. Watching the
machine is timed against not watching it, on one loaded model.
"""

from __future__ import annotations

import argparse
import itertools
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime

from benchmarks.common import WARMUP_S, publish, spread
from edgevit.actions.single_stage import SingleStages, single_stages
from edgevit.artifacts import Artifact
from edgevit.configs import Export, Load, Profile
from edgevit.context import Context
from edgevit.profiling import MeasurePlan
from edgevit.runtimes.base import HostSession, SessionOptions
from edgevit.targets.local import LocalCpu
from edgevit.targets.machine_meter import MachineMeter

DURATION_S = 2.0
RATIOS = (("profile", "bare"), ("profile_openvino", "benchmark_app"), ("watched", "unwatched"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    names = tuple(str(index) for index in range(10))
    with single_stages(Context()) as stages:
        loaded = stages.make(Load(stage="load", id="model", model="deit_tiny_patch16_224", classes=names))
        onnx = stages.make(Export(stage="export", id="onnx", model="model"), model=loaded)
        times_ms = _beside_other_tools(stages, onnx, rounds) | _with_and_without_meter(onnx, rounds)
    p50_ms = {f"{name}_p50_ms": spread(values) for name, values in times_ms.items()}
    ratios = {
        f"{ours}_over_{theirs}": spread([a / b for a, b in zip(times_ms[ours], times_ms[theirs], strict=True)])
        for ours, theirs in RATIOS
    }
    publish("profile_agreement", p50_ms | ratios)


def _beside_other_tools(stages: SingleStages, onnx: Artifact, rounds: int) -> dict[str, list[float]]:
    file, number = onnx.file("model.onnx"), itertools.count()

    def profiled_ms(runtime: Literal["onnxruntime", "openvino"]) -> float:
        fields = {"stage": "profile", "id": "latency", "model": "onnx", "min_runs": 1, "runtime": runtime, "retry_s": 0}
        duration_s = DURATION_S + next(number) * 1e-9  # another key: nothing is taken from the store
        config = Profile.model_validate({**fields, "duration_s": duration_s})
        return float(stages.make(config, model=onnx).metrics["latency_ms"]["p50"])

    return _in_turns(
        {
            "bare": lambda: _bare_p50_ms(file),
            "profile": lambda: profiled_ms("onnxruntime"),
            "benchmark_app": lambda: _benchmark_app_p50_ms(file),
            "profile_openvino": lambda: profiled_ms("openvino"),
        },
        rounds,
    )


def _with_and_without_meter(onnx: Artifact, rounds: int) -> dict[str, list[float]]:
    with LocalCpu().open(onnx, SessionOptions()) as session:
        assert isinstance(session, HostSession)
        session.meters = (MachineMeter(),)

        def p50_ms(is_watched: bool) -> float:
            plan = MeasurePlan(warmup_s=WARMUP_S, duration_s=DURATION_S, is_watched=is_watched)
            return session.measure(plan).percentile_ms(50)

        return _in_turns({"watched": partial(p50_ms, True), "unwatched": partial(p50_ms, False)}, rounds)


def _in_turns(takes: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """A time of each in every round; each other round in the reverse order."""
    times_ms: dict[str, list[float]] = {name: [] for name in takes}
    for number in range(rounds):
        for name in list(takes) if number % 2 == 0 else reversed(list(takes)):
            times_ms[name].append(takes[name]())
    return times_ms


def _benchmark_app_p50_ms(file: Path) -> float:
    program = Path(sys.executable).with_name("benchmark_app")
    options = "-d CPU -api sync -hint none -nstreams 1 -nthreads 1 -infer_precision f32 -ip f32 -op f32"
    command = [str(program), "-m", str(file), "-shape", "[1,3,224,224]", "-t", str(int(DURATION_S)), *options.split()]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    median = re.search(r"Median:\s+([\d.]+) ms", said)
    if median is None:
        raise RuntimeError(f"benchmark_app tells no median: {said[-500:]}")
    return float(median[1])


def _bare_p50_ms(file: Path) -> float:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)
    name = session.get_inputs()[0].name
    for _ in range(10):
        session.run(None, {name: image})
    times, end = [], time.perf_counter() + DURATION_S
    while time.perf_counter() < end:
        start = time.perf_counter()
        session.run(None, {name: image})
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


if __name__ == "__main__":
    main()
