"""What INT8 loses on the models in models/, and what bias correction and quantization-aware training win back of it.

    python -m benchmarks.int8_accuracy CIFAR WEIGHTS [--seeds 3] [--small NAME …] [--runs runs]

CIFAR is a folder with cifar-10-batches-py. WEIGHTS is cifar10_resnet56-4bfd9763.th (akamaster/pytorch_resnet_cifar10),
which teaches (small_models.py).

Every seed trains a model one epoch on 15,000 images with that teacher, as vit was taught, once rounding as INT8 does
(`qat`) and once in float (`further`), the control: what more training alone gives. `corrected` is not trained, but
quantized with bias_correction. All that the dialect of ONNX Runtime quantizes becomes integers (`placement: all`),
calibrated by minmax on 256 images that the seed draws, and no layer is kept float. Accuracy is that of the files, on
the 10,000 test images. `recovered` is the share of the points lost by the INT8 file as it is (`ptq`) that each way wins
back. A run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.common import publish
from benchmarks.small_models import FORMS, Lessons, deployed, lessons, small_models
from edgevit import pipeline
from edgevit.artifacts import Artifact, Json
from edgevit.cli.output import terminal_context
from edgevit.configs import Stage
from edgevit.evaluation.record import right_answers
from edgevit.report.statistics import paired_drop

LEARNING_RATE = 1e-4
WAYS: dict[str, tuple[str | None, Json]] = {  # the stage that trains, and fields of `quantize`
    "ptq": (None, {}),
    "corrected": (None, {"bias_correction": True}),
    "qat": ("qat", {"calibrator": "trained"}),
    "further": ("distill", {}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cifar", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    kept = {one.name: one.stage for one in small_models()}
    parser.add_argument("--small", nargs="*", default=list(kept), choices=kept, metavar="NAME", help=", ".join(kept))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    models = [stage for name, stage in kept.items() if name in asked.small]
    taught = lessons(asked.cifar, asked.weights)
    stages = [taught.teacher, *models]
    for model in models:
        for seed in range(asked.seeds):
            stages += _seed(model.id, seed, taught)
    made = pipeline.run(taught.recipe("int8-accuracy", stages), Path.cwd(), asked.runs, terminal_context())
    publish(
        "int8_accuracy",
        {"seeds": asked.seeds, "models": {one.id: _result(made, one.id, asked.seeds) for one in models}},
    )


def _seed(model: str, seed: int, taught: Lessons) -> Iterator[Stage]:
    for way, (stage, quantize) in WAYS.items():
        name, start = f"{model}/{way}/{seed}", model
        if stage is not None:
            changes = {"stage": stage, "id": f"{name}/model", "learning_rate": LEARNING_RATE, "epochs": 1, "seed": seed}
            yield taught.further(start, changes)
            start = f"{name}/model"
        yield from deployed(name, start, seed, **quantize)


def _result(made: Mapping[str, Artifact], model: str, seeds: int) -> Json:
    rows = [_row(made, model, seed) for seed in range(seeds)]
    lost = {way: [row[f"{way}, int8"]["drop"]["value"] for row in rows] for way in WAYS}
    before = statistics.mean(lost["ptq"])
    return {
        "mean_lost": {way: statistics.mean(values) for way, values in lost.items()},
        "recovered": {way: 1 - statistics.mean(lost[way]) / before for way in WAYS} if before > 0 else None,
        "seeds": rows,
    }


def _row(made: Mapping[str, Artifact], model: str, seed: int) -> Json:
    """Accuracy of each file, and what it loses against the float model before further training."""
    float_right = right_answers(made[f"{model}/ptq/{seed}/float-top1"])
    found: Json = {}
    for way in WAYS:
        for form in FORMS:
            right = right_answers(made[f"{model}/{way}/{seed}/{form}-top1"])
            found[f"{way}, {form}"] = {"top1": float(right.mean()), "drop": asdict(paired_drop(float_right, right))}
    return found


if __name__ == "__main__":
    main()
