"""`profile`'s p50 against a bare loop over ONNX Runtime, as onnxruntime_perf_test times it, interleaved.

    python -m benchmarks.profile_agreement [--rounds 10]

The bare loop shares no code with edgevit: its own session, one thread, one image, perf_counter around each run.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime

from benchmarks.common import publish, spread
from edgevit.actions.single_stage import single_stages
from edgevit.configs import Export, Load, Profile
from edgevit.context import Context

DURATION_S = 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    names = tuple(str(index) for index in range(10))
    with single_stages(Context()) as stages, tempfile.TemporaryDirectory():
        loaded = stages.make(Load(stage="load", id="model", model="deit_tiny_patch16_224", classes=names))
        onnx = stages.make(Export(stage="export", id="onnx", model="model"), model=loaded)
        bare, profiled = [], []
        for number in range(rounds):
            config = Profile(
                stage="profile", id=f"latency{number}", model="onnx", duration_s=DURATION_S + number * 1e-9
            )
            for ours in (False, True) if number % 2 == 0 else (True, False):
                if ours:
                    profiled.append(stages.make(config, model=onnx).metrics["latency_ms"]["p50"])
                else:
                    bare.append(_bare_p50_ms(onnx.file("model.onnx")))
    ratios = [profiled_ms / bare_ms for bare_ms, profiled_ms in zip(bare, profiled, strict=True)]
    result = {"bare_p50_ms": bare, "profile_p50_ms": profiled, "profile_over_bare": ratios}
    publish("profile_agreement", {name: spread(values) for name, values in result.items()})


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
