"""Training in float32 and in bfloat16 on this machine's CPU: images a second of several networks.

    python -m benchmarks.training_precision [--rounds 3]

Each training is `fit` from its call to its return: an epoch of 98 labelled characters that come with edgevit, batches
of 16, one process, two threads. A network's two precisions take turns within each round. The result's name says whether
the CPU has instructions for bfloat16, because that decides which one is faster. With them, `trial` is the speedup that
the trial of `precision: auto` finds before a training, in each of the rounds, and `auto` what it takes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.common import publish, spread
from edgevit.configs import Glyphs, Train
from edgevit.context import Context
from edgevit.data import Dataset, dataset_artifacts, open_dataset
from edgevit.inference.precision import Precision, is_fast_in_bfloat16
from edgevit.memory import freed_memory_kept
from edgevit.models import create_model
from edgevit.training.classifier_learner import ClassifierLearner
from edgevit.training.loop.batches import TrainingStream
from edgevit.training.loop.fit import fit
from edgevit.training.loop.precision import faster_precision, step_seconds
from edgevit.training.objectives import label_objective

BATCH, THREADS = 16, 2
SAMPLES, CHARACTERS = 1, 98  # samples of each character
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")


class Network(NamedTuple):
    """A timm model, its side in pixels and its arguments."""

    model: str
    size: int
    arguments: dict[str, Any]


NETWORKS = {
    "hybrid of the exercise": Network(
        "coatnet_nano_rw_224",
        64,
        {"embed_dim": (32, 96, 192), "depths": (1, 2, 2), "block_type": ("C", "C", "T"), "stem_width": (16, 32)},
    ),
    "MobileNetV2": Network("mobilenetv2_100", 160, {}),
    "ResNet-18": Network("resnet18", 64, {}),
    "DeiT-Tiny": Network("deit_tiny_patch16_224", 64, {"patch_size": 8}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(THREADS)
    is_fast = is_fast_in_bfloat16(torch.device("cpu"))
    publish(
        f"training_precision_{'with' if is_fast else 'without'}_instructions",
        {
            "batch_size": BATCH,
            "images": SAMPLES * CHARACTERS,
            "threads": THREADS,
            "networks": {name: _measured(network, asked.rounds) for name, network in NETWORKS.items()},
        },
    )


def _measured(network: Network, count: int) -> dict[str, Any]:
    data = characters(network.size, SAMPLES)
    for precision in PRECISIONS:  # warm-up
        images_per_s(network, data, BATCH, precision)
    rounds = [
        {precision: images_per_s(network, data, BATCH, precision) for precision in PRECISIONS} for _ in range(count)
    ]
    trials = [_trial(network) for _ in range(count)] if is_fast_in_bfloat16(torch.device("cpu")) else []
    return {
        "image_size": network.size,
        "images_per_s": {precision: spread([speeds[precision] for speeds in rounds]) for precision in PRECISIONS},
        "over_float32": spread([speeds["bfloat16"] / speeds["float32"] for speeds in rounds]),
        **({"trial": spread(trials), "auto": [faster_precision(speedup) for speedup in trials]} if trials else {}),
    }


@freed_memory_kept()
def _trial(network: Network) -> float:
    """The speedup that the trial finds, with memory and layout as in `fit`."""
    built = create_model(network.model, CHARACTERS, network.size, network.arguments)
    module = built.module.to(memory_format=torch.channels_last)
    seconds = step_seconds(module, built.preprocess, BATCH, channels_last=True)
    return seconds["float32"] / seconds["bfloat16"]


def characters(size: int, samples: int) -> Dataset:
    """Labelled characters of this side in pixels: so many samples of each of the 98."""
    config = Glyphs(source="glyphs", samples_per_class=samples, size=size)
    return open_dataset(dataset_artifacts({"glyphs": config}, Path(), ["glyphs.train"])["glyphs.train"])


def images_per_s(network: Network, data: Dataset, batch: int, precision: Precision) -> float:
    """The speed of `fit` in one epoch, from its call to its return, in this process."""
    built = create_model(network.model, len(data.classes), network.size, network.arguments)
    learner = ClassifierLearner(built.module, label_objective(len(data.classes)), built.preprocess)
    config = Train(
        stage="train",
        id="training",
        model=network.model,
        data="glyphs.train",
        epochs=1,
        batch_size=batch,
        precision=precision,
        channels_last=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        fit(learner, [TrainingStream(data)], config, Context(work=Path(folder), workers=0), out=Path(folder))
        return -(-len(data) // batch) * batch / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
