"""What the layers' profilers cost, and how much of the time they leave opaque.

    python -m benchmarks.layer_times [--rounds 5]

Each round times the layers of a network in each runtime: the runs without the profiler, then those with it.
"""

from __future__ import annotations

import argparse
from collections import defaultdict

from benchmarks.common import publish, spread
from edgevit.actions.inspect_layers import layer_times_of
from edgevit.actions.single_stage import single_stages
from edgevit.checking.timed_layers import timed_checkpoint, timed_onnx
from edgevit.configs import Export, Load
from edgevit.configs.runtimes import ONNXRUNTIME, OPENVINO, TORCH
from edgevit.configs.targets import LOCAL_CPU
from edgevit.context import Context
from edgevit.graphs.files import onnx_file
from edgevit.runtimes.base import for_runtime

NETWORKS = ("deit_tiny_patch16_224", "repvit_m0_9", "mobilenetv3_small_050")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    classes, context = tuple(str(index) for index in range(10)), Context()
    found: defaultdict[str, list[float]] = defaultdict(list)
    with single_stages(context) as stages:
        for network in NETWORKS:
            loaded = stages.make(Load(stage="load", id="model", model=network, classes=classes))
            onnx = stages.make(Export(stage="export", id="onnx", model="model"), model=loaded)
            for _ in range(rounds):
                for runtime in (ONNXRUNTIME.name, OPENVINO.name, TORCH.name):
                    model = loaded if runtime == TORCH.name else for_runtime(onnx, runtime)
                    times = layer_times_of(model, LOCAL_CPU, None, None, context)
                    if runtime == TORCH.name:
                        timed = timed_checkpoint(loaded.path, times, None)
                    else:
                        timed = timed_onnx(onnx_file(onnx), times, "float32", None)
                    name = f"{network}_{runtime}"
                    found[f"{name}_profiled_over_plain"].append(1 + (times.overhead or 0.0))
                    found[f"{name}_sum_over_plain"].append(times.sum_ms / times.engine_ms)
                    found[f"{name}_opaque_share"].append(timed.opaque_share)
    publish("layer_times", {name: spread(values) for name, values in found.items()})


if __name__ == "__main__":
    main()
