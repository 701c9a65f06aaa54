"""What INT8, FP8 and INT4 lose, and what bias correction and quantization-aware training win back of INT8's losses.

    python -m benchmarks.quantization_accuracy CIFAR WEIGHTS [--imagenet NPZ] [--seeds 3] [--students NAME …]
        [--ways WAY …] [--runs runs]

CIFAR is a folder with cifar-10-batches-py. WEIGHTS is cifar10_resnet56-4bfd9763.th (akamaster/pytorch_resnet_cifar10),
which teaches (reference_students.py). NPZ is imagenet_mobilenet_v2_1.0_224_int8w.npz (imagenet_mobilenetv2.py).

Each form is written with all that its dialect quantizes (`placement: all`), calibrated by minmax on 256 training images
that the seed draws; no layer is kept float. `ptq` is INT8 for ONNX Runtime, `corrected` the same with bias_correction;
`tensorrt`, `float8` and `int4` are for TensorRT, the rest in float16, here run by ONNX Runtime. Accuracy is that of the
files, on the 10,000 test images.

The models in models/: every seed trains one for an epoch on 15,000 images with that teacher, as conv was taught, once
rounding as INT8 does (`qat`) and once in float (`further`), the control: what more training alone gives. The other
students had other losses, and the ViT another teacher.

With NPZ also `mobilenetv2`, an early teacher of the exercise: a network trained on ImageNet, images at 192 px, and the
nearest of ten centroids of five images each; in ONNX Runtime's forms alone, at its size. `qat` knows no label: for an
epoch of 3,000 images the float network teaches its own rounded copy. There is no control; taught by itself, a float
network learns nothing.

`recovered` is the share of the points lost by `ptq` that a way wins back. Models that an earlier run measured stay in
the results. A run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks import imagenet_mobilenetv2
from benchmarks.common import conditions, models_before, publish
from benchmarks.reference_students import FORMS, IMAGES, Lessons, deployed, lessons, reference_students
from edgevit import pipeline
from edgevit.artifacts import Artifact, Json
from edgevit.cli.output import terminal_context
from edgevit.configs import STAGES, Fewshot, Load, Stage
from edgevit.evaluation.paired import paired_drop
from edgevit.evaluation.record import correct_predictions
from edgevit.recipe import Recipe

LEARNING_RATE = 1e-4
EXERCISE, SIDE = "mobilenetv2", 192
DRAWS = {"few": 5, "unlabelled": 300}  # images a class that the exercise's network sees
WAYS: dict[str, tuple[str | None, Json]] = {  # the stage that trains, and fields of `quantize`
    "ptq": (None, {}),
    "corrected": (None, {"bias_correction": True}),
    "qat": ("qat", {"calibrator": "trained"}),
    "further": ("distill", {}),
    "tensorrt": (None, {"runtime": "tensorrt"}),
    "float8": (None, {"runtime": "tensorrt", "precision": "float8"}),
    "int4": (None, {"runtime": "tensorrt", "precision": "int4"}),
}
NOTHING_TO_QUANTIZE = (("hybrid", "int4"), ("conv", "int4"))  # their layers are convolutions
EXERCISE_WAYS = ("ptq", "corrected", "qat")
FROM_PTQ = ("corrected", "qat", "further")


class Subject(NamedTuple):
    """A trained model: the stages that make it, the last of which has its name, and the ways it goes."""

    stages: Sequence[Stage]
    ways: Sequence[str]

    @property
    def name(self) -> str:
        return self.stages[-1].id


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cifar", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--imagenet", type=Path, metavar="NPZ")
    parser.add_argument("--seeds", type=int, default=3)
    kept = {model.name: model.stage for model in reference_students()}
    parser.add_argument("--students", nargs="*", default=list(kept), choices=kept, metavar="NAME", help=", ".join(kept))
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=WAYS, metavar="WAY", help=", ".join(WAYS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    asked.ways = list(dict.fromkeys(["ptq", *asked.ways]))
    subjects = [Subject([kept[name]], _possible(name, asked.ways)) for name in asked.students]
    if asked.imagenet is not None:
        stages = exercise_stages(imagenet_mobilenetv2.weights_file(asked.imagenet, asked.runs))
        subjects.append(Subject(stages, [way for way in asked.ways if way in EXERCISE_WAYS]))
    taught = lessons(asked.cifar, asked.weights)
    made = pipeline.run(_recipe(subjects, asked.seeds, taught), Path.cwd(), asked.runs, terminal_context())
    results = {
        subject.name: {"conditions": conditions(), **_result(made, subject, asked.seeds)} for subject in subjects
    }
    publish("quantization_accuracy", {"models": models_before("quantization_accuracy") | results})


def _possible(name: str, ways: Sequence[str]) -> list[str]:
    return [way for way in ways if (name, way) not in NOTHING_TO_QUANTIZE]


def exercise_stages(weights: Path) -> list[Stage]:
    """An early teacher of the exercise: MobileNetV2 of ImageNet, and the nearest centroid of five images a class."""
    backbone = Load(
        stage="load",
        id="imagenet",
        model=imagenet_mobilenetv2.MODEL,
        model_args=imagenet_mobilenetv2.BICUBIC_ARGS,
        weights=str(weights),
        image_size=SIDE,
    )
    head = Fewshot(
        stage="fewshot", id=EXERCISE, model="imagenet", support="few.support", method="nearest_centroid", random_views=0
    )
    return [backbone, head]


def _recipe(subjects: Sequence[Subject], seeds: int, taught: Lessons) -> Recipe:
    stages = [taught.teacher, *(stage for subject in subjects for stage in subject.stages)]
    for subject in subjects:
        for seed in range(seeds):
            stages += _seed(subject, seed, taught)
    cifar = taught.datasets["cifar"].model_dump(mode="json")
    draws = {name: {**cifar, "few_shot": {"shots": shots}} for name, shots in DRAWS.items()}
    return Recipe.model_validate(
        {"name": "quantization-accuracy", "datasets": {**taught.datasets, **draws}, "stages": stages}
    )


def _seed(subject: Subject, seed: int, taught: Lessons) -> Iterator[Stage]:
    for way in subject.ways:
        stage, quantize = WAYS[way]
        name, start = f"{subject.name}-{way}/{seed}", subject.name
        if stage is not None:
            changes = {"stage": stage, "id": f"{name}/model", "learning_rate": LEARNING_RATE, "epochs": 1, "seed": seed}
            yield _by_itself(start, changes) if start == EXERCISE else taught.further(start, changes)
            start = f"{name}/model"
        yield from deployed(name, start, seed, **quantize)


def _by_itself(start: str, changes: Json) -> Stage:
    """Training that is taught by what it starts from."""
    given = {
        "init": start,
        "streams": [{"data": "unlabelled.support"}],
        "calibration": IMAGES,
        "objectives": [{"loss": "soft"}],
        "batch_size": 32,
        "warmup_fraction": 0.1,
        "augmentation": {"scale": [0.8, 1]},
        "channels_last": True,
    }
    return STAGES[changes["stage"]].model_validate({**given, **changes})


def _result(made: Mapping[str, Artifact], subject: Subject, seeds: int) -> Json:
    rows = [_row(made, subject, seed) for seed in range(seeds)]
    lost = {way: [row[way]["lost"]["value"] for row in rows] for way in subject.ways}
    mean = {way: statistics.mean(values) for way, values in lost.items()}
    return {
        "mean_lost": mean,
        "recovered": {way: 1 - mean[way] / mean["ptq"] for way in FROM_PTQ if way in mean} if mean["ptq"] > 0 else None,
        "seeds": rows,
    }


def _row(made: Mapping[str, Artifact], subject: Subject, seed: int) -> Json:
    """Accuracy of each file, and what it loses against the float model before further training."""
    start = correct_predictions(made[f"{subject.name}-ptq/{seed}/float-top1"])
    ways: Json = {}
    for way in subject.ways:
        in_float, quantized = (f"{subject.name}-{way}/{seed}/{form}" for form in FORMS)
        right = correct_predictions(made[f"{quantized}-top1"])
        ways[way] = {
            "top1": float(right.mean()),
            "lost": asdict(paired_drop(start, right)),
            "float_top1": float(correct_predictions(made[f"{in_float}-top1"]).mean()),
            "sqnr_db": made[quantized].metrics["sqnr_db"],
            "size_bytes": made[quantized].metrics["size_bytes"],
        }
    return ways


if __name__ == "__main__":
    main()
