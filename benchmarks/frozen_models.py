"""Embeddings of frozen models on the CPU: ONNX Runtime, as edgevit runs them, against PyTorch, interleaved.

    python -m benchmarks.frozen_models [--rounds 5]

The ratio of images/s, of batches of 32, both on all cores. PyTorch's side is the same model in eval mode without
gradients, its weights channels-last where it has depthwise convolutions, which is its faster way. The seconds of the
export, which comes first, are given beside.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.common import publish, spread
from edgevit.inference.frozen_model import fast_forward
from edgevit.memory import freed_memory_kept
from edgevit.models import create_model
from edgevit.models.embedding import Pooled

MODELS = {"mobilenetv2_100": 192, "resnet18": 64, "resnet50": 224, "deit_tiny_patch16_224": 224, "repvit_m0_9": 224}
BATCH, BATCHES, MANY = 32, 4, 10**9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    publish("frozen_models", {name: _compared(name, size, rounds) for name, size in MODELS.items()})


@torch.no_grad()
def _compared(name: str, size: int, rounds: int) -> dict[str, object]:
    built = create_model(name, 10, size)
    images = torch.randn(BATCH, 3, size, size, generator=torch.Generator().manual_seed(0))
    in_torch = Pooled(built.module).eval()
    start = time.perf_counter()
    exported = fast_forward(built.module, built.preprocess, torch.device("cpu"), MANY, embedding=True)
    export_s = time.perf_counter() - start
    rates: dict[str, list[float]] = {"torch": [], "onnxruntime": []}
    with freed_memory_kept():
        for _ in range(rounds + 1):
            for runtime, forward in (("torch", in_torch), ("onnxruntime", exported)):
                rates[runtime].append(_images_per_s(forward, images))
    kept = {runtime: some[1:] for runtime, some in rates.items()}  # the first round warms up
    ratios = [new / old for new, old in zip(kept["onnxruntime"], kept["torch"], strict=True)]
    return {
        "image_size": size,
        "ratio": spread(ratios),
        "images_per_s": {runtime: spread(some) for runtime, some in kept.items()},
        "export_s": export_s,
    }


def _images_per_s(forward: Callable[[Tensor], Tensor], images: Tensor) -> float:
    start = time.perf_counter()
    for _ in range(BATCHES):
        forward(images)
    return BATCH * BATCHES / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
