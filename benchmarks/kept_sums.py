"""INT8 weights of convolutions rounded to the nearest integers, and rounded so that their sums stay: SQNR and accuracy.

    python -m benchmarks.kept_sums CIFAR WEIGHTS NPZ [--exercise RUN] [--seeds 3] [--runs runs]

CIFAR, WEIGHTS and NPZ are as for quantization_accuracy.py, and so are the models: those of models/, and MobileNetV2 of
ImageNet with the nearest of ten centroids. With RUN, the folder of a run of recipes/cifar10-10way-5shot.yaml, also its
student a, a MobileNetV2 that was trained in that run.

Each model is quantized for ONNX Runtime with all layers as integers, calibrated by minmax on 256 training images that
the seed draws; no layer is kept float. Weights have 8 bits, or 7 as on CPUs without VNNI. SQNR is that of the logits
against the float file, on 64 other training images. Accuracy is that of the files on the 10,000 test images.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import imagenet_mobilenetv2
from benchmarks.common import publish
from benchmarks.quantization_accuracy import EXERCISE, exercise_stages
from benchmarks.quantized_files import correct_images, quantized_session
from benchmarks.reference_students import IMAGES, lessons, reference_students
from edgevit import pipeline
from edgevit.artifacts import Artifact, Json
from edgevit.cli.output import terminal_context
from edgevit.configs import Export, Stage
from edgevit.context import usable_cpus
from edgevit.data import Dataset, dataset_artifacts, open_dataset
from edgevit.evaluation.paired import paired_drop
from edgevit.graphs.files import onnx_file, read_onnx
from edgevit.progress import SilentProgress
from edgevit.quantization import calibrated, choose_images, image_batches
from edgevit.quantization.dialects import with_reduced_range
from edgevit.recipe import Recipe
from edgevit.runtimes.base import SessionOptions
from edgevit.runtimes.parity import centered_outputs, sqnr_db
from edgevit.runtimes.sessions import open_session

RUNTIME, CALIBRATION_IMAGES = "onnxruntime", 256
ROUNDINGS = {"nearest": False, "kept sums": True}
STUDENT = "onnx/student-a"  # of the exercise's run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("cifar", "weights", "npz"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--exercise", type=Path, metavar="RUN")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    asked = parser.parse_args()
    taught = lessons(asked.cifar, asked.weights)
    data = dataset_artifacts(taught.datasets, Path.cwd(), [IMAGES, "cifar.test"])
    train, test = (open_dataset(data[name]) for name in (IMAGES, "cifar.test"))
    results = {name: _result(_Subject(model, test), train, asked.seeds) for name, model in _models(asked).items()}
    publish("kept_sums", {"models": results})


def _models(asked: argparse.Namespace) -> dict[str, Artifact]:
    """The float files by the models' names."""
    stages: list[Stage] = [student.stage for student in reference_students()]
    stages += exercise_stages(imagenet_mobilenetv2.weights_file(asked.npz, asked.runs))
    names = [*(student.name for student in reference_students()), EXERCISE]
    stages += [Export(stage="export", id=f"{name}/float", model=name) for name in names]
    cifar = lessons(asked.cifar, asked.weights).datasets["cifar"].model_dump(mode="json")
    datasets = {"few": {**cifar, "few_shot": {"shots": 5}}}
    recipe = Recipe.model_validate({"name": "kept-sums", "datasets": datasets, "stages": stages})
    made = pipeline.run(recipe, Path.cwd(), asked.runs, terminal_context())
    models = {name: made[f"{name}/float"] for name in names}
    if asked.exercise is not None:
        models["student a of the exercise"] = Artifact.load(asked.exercise / STUDENT)
    return models


class _Subject:
    """A float file, and what it answers to the test images."""

    def __init__(self, model: Artifact, test: Dataset) -> None:
        self.model, self.test = model, test
        self.session = open_session(model, SessionOptions(threads=usable_cpus()))

    @cached_property
    def correct(self) -> NDArray[np.bool_]:
        return correct_images(self.session, self.test)


def _result(subject: _Subject, train: Dataset, seeds: int) -> Json:
    drawn = [list(_forms(subject, train, seed)) for seed in range(seeds)]
    return {
        "float_top1": float(subject.correct.mean()),
        "forms": [
            {
                "bits": forms[0]["bits"],
                "rounding": forms[0]["rounding"],
                "sqnr_db": [form["sqnr_db"] for form in forms],
                "lost": [form["lost"] for form in forms],
            }
            for forms in zip(*drawn, strict=True)
        ],
    }


def _forms(subject: _Subject, train: Dataset, seed: int) -> Iterator[Json]:
    chosen = choose_images(train, CALIBRATION_IMAGES, seed, SilentProgress())
    calibration, held_out = (
        image_batches(train, positions, subject.model.io, SilentProgress(), "")
        for positions in (chosen.calibration, chosen.held_out)
    )
    images, source = list(held_out()), read_onnx(onnx_file(subject.model))
    expected = centered_outputs(subject.session, images)
    eight = calibrated(source, calibration, "minmax", RUNTIME, usable_cpus(), subject.model.path, reduce_range=False)
    seven = replace(eight, dialect=with_reduced_range(eight.dialect))
    for bits, ready in ((8, eight), (7, seven)):
        for rounding, keeps_sums in ROUNDINGS.items():
            quantized = replace(ready, keeps_sums=keeps_sums).quantized()
            session = quantized_session(quantized, subject.model, usable_cpus())
            yield {
                "bits": bits,
                "rounding": rounding,
                "sqnr_db": sqnr_db(centered_outputs(session, images), expected),
                "lost": paired_drop(subject.correct, correct_images(session, subject.test)).value,
            }


if __name__ == "__main__":
    main()
