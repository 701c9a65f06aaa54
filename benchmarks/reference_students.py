"""Train the reference students, which other benchmarks quantize and cut, and keep them in benchmarks/models/.

    python -m benchmarks.reference_students CIFAR WEIGHTS [--runs runs] [--models benchmarks/models] [--threads 2]
        [--set KEY=VALUE …]
    python -m benchmarks.reference_students --table [--models benchmarks/models]

CIFAR is a folder with cifar-10-batches-py. WEIGHTS is cifar10_resnet56-4bfd9763.th (akamaster/pytorch_resnet_cifar10),
with cifar10_resnet20-12fca82f.th beside it. The recipe reference_students.yaml takes about four hours of one core;
--set changes it as it does in `edgevit run`. A run that was stopped goes on.

Of each student: NAME.safetensors, its weights in float16, and NAME.json, what builds it again, how it was trained and
the curve of its loss, what it scored with the float32 weights, and the sha256 of the other file. The result is a table
of all students in --models; --table writes only that.
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
from benchmarks.common import ROOT, publish
from edgevit import pipeline
from edgevit.artifacts import Artifact, Json, sha256_of_file
from edgevit.cli.output import terminal_context
from edgevit.configs import STAGES, DatasetConfig, Evaluate, Export, Load, Quantize, Stage
from edgevit.errors import ArtifactError
from edgevit.models.checkpoints import DESCRIPTION, WEIGHTS
from edgevit.recipe import Recipe, load_recipe
from edgevit.training.loop.metrics_log import METRICS

RECIPE = ROOT / "benchmarks" / "reference_students.yaml"
GUIDE = "cifar10_resnet20-12fca82f.th"  # the second teacher
MODELS = ROOT / "benchmarks" / "models"
STUDENT = "student/"
FORMS = ("float", "int8")
IMAGES, SHOTS = "cifar.support", 1500  # what other benchmarks train these models on further, SHOTS a class
AS_TAUGHT = (
    *("teacher", "teacher_view", "objectives", "batch_size", "warmup_fraction", "augmentation", "precision"),
    "channels_last",
)


class Lessons(NamedTuple):
    """How the students are taught: the stages of reference_students.yaml, by their ids, and the data."""

    stages: Mapping[str, Stage]
    datasets: Mapping[str, DatasetConfig]

    @property
    def teacher(self) -> Stage:
        return self.stages["teacher"]

    def further(self, start: str, changes: Json) -> Stage:
        """The stage that trains a checkpoint further on IMAGES, as conv was taught but for `changes`."""
        lesson = self.stages[f"{STUDENT}conv"].model_dump(mode="json", include=set(AS_TAUGHT))
        images = {"streams": [{"data": IMAGES}], "init": start}
        if changes["stage"] == "qat":
            images["calibration"] = IMAGES
        return STAGES[changes["stage"]].model_validate({**lesson, **images, **changes})

    def recipe(self, name: str, stages: Sequence[Stage]) -> Recipe:
        return Recipe.model_validate({"name": name, "datasets": self.datasets, "stages": tuple(stages)})


class ReferenceStudent(NamedTuple):
    """A kept student: the stage that loads it, and what is known of it."""

    name: str
    stage: Load
    description: Json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cifar", type=Path, nargs="?")
    parser.add_argument("weights", type=Path, nargs="?")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--models", type=Path, default=MODELS)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    if not asked.table:
        if asked.weights is None:
            parser.error("give CIFAR and WEIGHTS, or --table")
        train(asked)
    students = {student.name: summary(student) for student in reference_students(asked.models)}
    publish("reference_students", {"students": students})


def train(asked: argparse.Namespace) -> None:
    """Train the students of the recipe, and keep them."""
    torch.set_num_threads(asked.threads)
    recipe = load_recipe(RECIPE, [*_given(asked.cifar, asked.weights), *asked.set])
    done = pipeline.run(recipe, RECIPE.parent, asked.runs, terminal_context())
    asked.models.mkdir(parents=True, exist_ok=True)
    for name in [stage_id for stage_id in done if stage_id.startswith(STUDENT)]:
        short = name.removeprefix(STUDENT)
        keep(done[name], done[f"accuracy/{short}"].metrics["top1"], asked.models / short)


def summary(student: ReferenceStudent) -> Json:
    """What a kept student is, how long it was trained, and what it scored."""
    described = student.description
    facts = {name: described[name] for name in ("model", "image_size", "params", "macs")}
    models = {stage.id: stage.model for stage in load_recipe(RECIPE).stages if isinstance(stage, Load)}
    lesson = described["training"]
    return {
        **facts,
        "teacher": models[lesson["teacher"]],
        "epochs": lesson["epochs"],
        "top1": described["top1_in_float32"],
    }


def lessons(cifar: Path, weights: Path) -> Lessons:
    """How the students were taught."""
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


def reference_students(folder: Path = MODELS) -> list[ReferenceStudent]:
    """Every student that is kept in a folder. Raises ArtifactError where weights are not those that were described."""
    students = []
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
        students.append(ReferenceStudent(file.stem, stage, described))
    return students


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
    teachers = {"teacher": weights.absolute(), "guide": weights.absolute().with_name(GUIDE)}
    return [
        f"datasets.cifar.path={cifar.absolute()}",
        *(f"stages.{name}.weights={file}" for name, file in teachers.items()),
    ]


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
