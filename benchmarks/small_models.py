"""Train the small models that benchmarks quantize, and keep them in benchmarks/models/.

    python -m benchmarks.small_models CIFAR WEIGHTS [--recipe small|reference] [--exercise RUN] [--runs runs]
        [--models benchmarks/models] [--threads 2] [--set KEY=VALUE …]

CIFAR is a folder with cifar-10-batches-py. WEIGHTS is cifar10_resnet56-4bfd9763.th (akamaster/pytorch_resnet_cifar10),
with cifar10_resnet20-12fca82f.th beside it for the reference students. The recipe is small_models.yaml, about half an
hour alone on two cores, or reference_students.yaml, about four hours of one core;
--set changes it as it does in `edgevit run`. A run that was stopped goes on. RUN is what cifar10_exercise.py left,
runs/cifar10-10way-5shot: its student b, which five labels a class and an unlabelled pool taught, is kept as coatnet, a
second hybrid.

Of each student: NAME.safetensors, its weights in float16, and NAME.json, what builds it again, how it was trained and
the curve of its loss, what it scored with the float32 weights, and the sha256 of the other file.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file

import benchmarks.cifar_resnet  # noqa: F401 - registers the teacher with timm
from benchmarks.common import ROOT
from edgevit import pipeline
from edgevit.artifacts import Artifact, Json, sha256_of_file
from edgevit.cli.output import terminal_context
from edgevit.configs import STAGES, DatasetConfig, Distill, Evaluate, Export, Load, Quantize, Stage
from edgevit.errors import ArtifactError
from edgevit.models.checkpoints import DESCRIPTION, WEIGHTS
from edgevit.recipe import Recipe, load_recipe
from edgevit.training.loop.metrics_log import METRICS

RECIPE = ROOT / "benchmarks" / "small_models.yaml"
RECIPES = {"small": RECIPE, "reference": ROOT / "benchmarks" / "reference_students.yaml"}
GUIDE = "cifar10_resnet20-12fca82f.th"  # the second teacher of the reference students
MODELS = ROOT / "benchmarks" / "models"
STUDENT = "student/"
FORMS = ("float", "int8")
IMAGES, SHOTS = "cifar.support", 1500  # what other benchmarks train these models on further, SHOTS a class
AS_TAUGHT = ("teacher", "teacher_view", "objectives", "batch_size", "warmup_fraction", "augmentation", "precision")


class Lessons(NamedTuple):
    """How the models are taught: the stages of small_models.yaml, by their ids, and the data."""

    stages: Mapping[str, Stage]
    datasets: Mapping[str, DatasetConfig]

    @property
    def teacher(self) -> Stage:
        return self.stages["teacher"]

    @property
    def vit(self) -> Distill:
        student = self.stages[f"{STUDENT}vit"]
        assert isinstance(student, Distill)
        return student

    def further(self, start: str, changes: Json) -> Stage:
        """The stage that trains a checkpoint further on IMAGES, as vit was taught but for `changes`."""
        lesson = self.vit.model_dump(mode="json", include=set(AS_TAUGHT))
        images = {"streams": [{"data": IMAGES}], "init": start}
        if changes["stage"] == "qat":
            images["calibration"] = IMAGES
        return STAGES[changes["stage"]].model_validate({**lesson, **images, **changes})

    def recipe(self, name: str, stages: Sequence[Stage]) -> Recipe:
        return Recipe.model_validate({"name": name, "datasets": self.datasets, "stages": tuple(stages)})


class SmallModel(NamedTuple):
    """A kept model: the stage that loads it, and what is known of it."""

    name: str
    stage: Load
    description: Json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cifar", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--recipe", choices=tuple(RECIPES), default="small")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--models", type=Path, default=MODELS)
    parser.add_argument("--exercise", type=Path, metavar="RUN")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    guide = [f"stages.guide.weights={asked.weights.absolute().with_name(GUIDE)}"] if asked.recipe == "reference" else []
    recipe = load_recipe(RECIPES[asked.recipe], [*_given(asked.cifar, asked.weights), *guide, *asked.set])
    done = pipeline.run(recipe, RECIPE.parent, asked.runs, terminal_context())
    asked.models.mkdir(parents=True, exist_ok=True)
    for name in [stage_id for stage_id in done if stage_id.startswith(STUDENT)]:
        short = name.removeprefix(STUDENT)
        keep(done[name], done[f"accuracy/{short}"].metrics["top1"], asked.models / short)
    if asked.exercise is not None:
        student, accuracy = (Artifact.load(asked.exercise / part) for part in ("student/b", "accuracy/student-b"))
        keep(student, accuracy.metrics["top1"], asked.models / "coatnet")


def lessons(cifar: Path, weights: Path) -> Lessons:
    """How the models were taught."""
    recipe = load_recipe(RECIPE, [*_given(cifar, weights), f"datasets.cifar.few_shot={{shots: {SHOTS}, draw: 0}}"])
    return Lessons({stage.id: stage for stage in recipe.stages}, recipe.datasets)


def keep(student: Artifact, top1: Json, stem: Path) -> None:
    """Write a student's weights in float16 beside a description."""
    weights = stem.with_suffix(".safetensors")
    state = load_file(student.file(WEIGHTS))
    save_file({name: _halved(tensor) for name, tensor in state.items()}, weights)
    described: dict[str, Any] = {
        **json.loads(student.file(DESCRIPTION).read_text()),
        "image_size": student.io.preprocess.height,
        "classes": student.io.classes,
        "params": student.metrics["params"],
        "macs": student.metrics["macs"],
        "top1_in_float32": top1,
        "training": student.manifest.config,
        "curve": _curve(student),
        "provenance": student.manifest.provenance,
        "sha256": sha256_of_file(weights),
    }
    stem.with_suffix(".json").write_text(json.dumps(described, indent=1) + "\n")


def small_models(folder: Path = MODELS) -> list[SmallModel]:
    """Every model that is kept in a folder. Raises ArtifactError where weights are not those that were described."""
    models = []
    for file in sorted(folder.glob("*.json")):
        described, weights = json.loads(file.read_text()), file.with_suffix(".safetensors")
        if (got := sha256_of_file(weights)) != described["sha256"]:
            raise ArtifactError("these are other weights", where=weights, got=got, expected=described["sha256"])
        stage = Load(
            stage="load",
            id=file.stem,
            model=described["model"],
            model_args=described["model_args"],
            image_size=described["image_size"],
            classes=tuple(described["classes"]),
            weights=str(weights.absolute()),
        )
        models.append(SmallModel(file.stem, stage, described))
    return models


def deployed(name: str, model: str, seed: int, **quantize: Any) -> Iterator[Stage]:
    """A checkpoint's float and INT8 files, NAME/float and NAME/int8, and what both score on the test images, …-top1.

    Args:
        quantize: other fields of the stage that makes the INT8 file, which may ask for another precision.
    """
    yield Export(stage="export", id=f"{name}/float", model=model)
    yield Quantize(
        stage="quantize",
        id=f"{name}/int8",
        model=f"{name}/float",
        calibration=IMAGES,
        placement="all",
        min_sqnr_db=0,
        seed=seed,
        **quantize,
    )
    for form in FORMS:
        yield Evaluate(stage="evaluate", id=f"{name}/{form}-top1", model=f"{name}/{form}", data="cifar.test")


def _given(cifar: Path, weights: Path) -> list[str]:
    return [f"datasets.cifar.path={cifar.absolute()}", f"stages.teacher.weights={weights.absolute()}"]


def _curve(student: Artifact) -> list[Json]:
    """Epoch, loss and accuracy on training images of the last log row of each epoch; of a loaded model, nothing."""
    if METRICS not in student.manifest.files:
        return []
    rows = [json.loads(line) for line in student.file(METRICS).read_text().splitlines()]
    last = {row["epoch"]: row for row in rows}
    return [{key: row[key] for key in ("epoch", "loss", "top1") if key in row} for row in last.values()]


def _halved(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.half() if tensor.is_floating_point() else tensor


if __name__ == "__main__":
    main()
