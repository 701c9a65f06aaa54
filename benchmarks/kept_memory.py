"""Speed of trainings and embeddings on a CPU when the process keeps freed memory, and when glibc gives it back.

    python -m benchmarks.kept_memory [--rounds 3]

Each measurement is a process of its own with two threads, because glibc adapts to what a process has done before. By
default, glibc decides what is given back to the system, as without edgevit. The two ways take turns within each round.
A training is `fit` from its call to its return: an epoch of 196 characters that come with edgevit, batches of 64, in
float32. The embeddings are those of a `FrozenModel` for the same images, which are too few for an export to ONNX
Runtime.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.common import publish, spread
from benchmarks.training_precision import NETWORKS, THREADS, Network, characters, images_per_s
from edgevit import memory
from edgevit.inference.frozen_model import FrozenModel
from edgevit.models import create_model

BATCH, SAMPLES = 64, 2
COMPARED = {
    "MobileNetV2": NETWORKS["MobileNetV2"],
    "EfficientNet-Lite2": Network("tf_efficientnet_lite2", 192, {}),
    "ResNet-18": Network("resnet18", 128, {}),
    "DeiT-Tiny": Network("deit_tiny_patch16_224", 160, {}),
    "hybrid of the exercise": NETWORKS["hybrid of the exercise"],
}
EMBEDDED = ("EfficientNet-Lite2",)
WAYS = ("by_default", "kept")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=3, metavar=("KIND", "NETWORK", "WAY"), help="one measurement, in this process")
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(_measured(*asked.one)))
        return
    publish(
        "kept_memory",
        {
            "batch_size": BATCH,
            "threads": THREADS,
            "trainings": {name: _compared("training", name, asked.rounds) for name in COMPARED},
            "embeddings": {name: _compared("embeddings", name, asked.rounds) for name in EMBEDDED},
        },
    )


def _compared(kind: str, name: str, count: int) -> dict[str, Any]:
    rounds = [{way: _in_own_process(kind, name, way) for way in WAYS} for _ in range(count)]
    return {
        "image_size": COMPARED[name].size,
        **{
            figure: {way: spread([measured[way][figure] for measured in rounds]) for way in WAYS}
            for figure in ("images_per_s", "peak_rss_mib")
        },
        "kept_over_default": spread(
            [measured["kept"]["images_per_s"] / measured["by_default"]["images_per_s"] for measured in rounds]
        ),
    }


def _in_own_process(kind: str, name: str, way: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.kept_memory", "--one", kind, name, way]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    measured: dict[str, float] = json.loads(output.splitlines()[-1])
    return measured


def _measured(kind: str, name: str, way: str) -> dict[str, float]:
    torch.set_num_threads(THREADS)
    if way == "by_default":
        memory._glibc = lambda: None  # type: ignore[assignment]
    measure: Callable[[Network], float] = {"training": _training, "embeddings": _embeddings}[kind]
    return {
        "images_per_s": measure(COMPARED[name]),
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _training(network: Network) -> float:
    return images_per_s(network, characters(network.size, SAMPLES), BATCH, "float32")


def _embeddings(network: Network) -> float:
    data = characters(network.size, SAMPLES)
    built = create_model(network.model, len(data.classes), network.size, network.arguments)
    model = FrozenModel(built.module, built.preprocess, torch.device("cpu"))
    start = time.perf_counter()
    model.embeddings(data, BATCH)
    return len(data) / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
