"""What teaches a student to see from foreign images: bodies trained in different ways, judged on CIFAR-10.

    python -m benchmarks.foreign_pictures CIFAR ELSEWHERE WEIGHTS SMALL [--only ID ...] [--epochs 4] [--runs runs]

CIFAR and ELSEWHERE are as for cifar10_students.py, WEIGHTS are EfficientNet-Lite2's, and SMALL are MobileNetV2's
(imagenet_mobilenetv2.py). foreign_pictures.yaml holds the bodies. Each learns the teacher's features of ELSEWHERE's
training images without labels. --only names some of the bodies. `shipped` is the body that comes with edgevit.

A body is judged by heads on its frozen features: 20 draws of 5 images of each class, from 1,000 training images of
CIFAR-10, answer 3,000 other training images. The test images are not used. The teacher and the small network without
training are judged alike. The results of earlier runs stay; bodies that are trained again take their places.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.cifar10_few_shot import SHOTS, played
from benchmarks.common import ROOT, models_before, publish
from benchmarks.imagenet_networks import settings_of_small
from edgevit import pipeline
from edgevit.artifacts import Artifact
from edgevit.cli.output import terminal_context
from edgevit.configs import Cifar
from edgevit.context import Context
from edgevit.data import dataset_artifacts, open_dataset
from edgevit.data.dataset import Dataset
from edgevit.data.splits import sample_by_hash
from edgevit.fewshot.episodes import EpisodePlan
from edgevit.inference.frozen_model import FrozenModel
from edgevit.models.checkpoints import open_checkpoint
from edgevit.recipe import Recipe, load_recipe

RESULT = "foreign_pictures"
RECIPE = ROOT / "benchmarks" / "foreign_pictures.yaml"
METHODS = ("nearest_centroid", "logistic_regression")
LABELLED_PER_CLASS, JUDGED, DRAWS = 400, 3000, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("cifar", "elsewhere", "weights", "small"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--only", nargs="+", metavar="ID")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    asked = parser.parse_args()
    recipe, data, context = _recipe(asked), _judging(asked.cifar), terminal_context()
    for stage in recipe.stages:
        if asked.only is None or stage.id in asked.only:
            made = pipeline.run(_only(recipe, stage.id), RECIPE.parent, asked.runs, context)
            row = {"epochs": getattr(stage, "epochs", 0), "images": _images(made)}
            row = {**row, **_judged(made[stage.id], data, asked.runs, context)}
            publish(RESULT, {"draws": DRAWS, "bodies": {**models_before(RESULT, "bodies"), stage.id: row}})


def _recipe(asked: argparse.Namespace) -> Recipe:
    settings = [
        f"datasets.elsewhere.path={asked.elsewhere.absolute()}",
        f"stages.imagenet.weights={asked.weights.absolute()}",
        *settings_of_small(asked.small, asked.elsewhere, asked.runs, "small"),
    ]
    recipe = load_recipe(RECIPE, settings)
    bodies = [stage.id for stage in recipe.stages if stage.stage == "distill"]
    return load_recipe(RECIPE, [*settings, *(f"stages.{body}.epochs={asked.epochs}" for body in bodies)])


def _only(recipe: Recipe, stage_id: str) -> Recipe:
    """The recipe with one body, and the networks that it needs."""
    needed = tuple(stage for stage in recipe.stages if stage.stage == "load" or stage.id == stage_id)
    return recipe.model_copy(update={"stages": needed})


def _images(made: dict[str, Artifact]) -> int:
    return sum(len(open_dataset(artifact)) for artifact in made.values() if artifact.kind == "dataset")


def _judging(cifar: Path) -> dict[str, Dataset]:
    """Training images: those that supports are drawn from, and those that are answered."""
    few_shot = {"shots": LABELLED_PER_CLASS, "draw": 0}
    config = Cifar.model_validate({"source": "cifar10", "path": str(cifar.absolute()), "few_shot": few_shot})
    labelled = open_dataset(dataset_artifacts({"cifar": config}, Path(), ["cifar.support"])["cifar.support"])
    judged = sample_by_hash(labelled, JUDGED, seed=0)
    answered = set(judged.sample_ids)
    others = [place for place, name in enumerate(labelled.sample_ids) if name not in answered]
    return {"support": labelled.subset(np.array(others)), "test": judged}


def _judged(body: Artifact, data: dict[str, Dataset], runs: Path, context: Context) -> dict[str, Any]:
    """The accuracies of each method on the body's frozen features, and the body's costs."""
    model = FrozenModel(
        open_checkpoint(body).module, body.io.preprocess, torch.device("cpu"), runs / ".store" / "cache"
    )
    features = {role: model.embeddings(images).numpy() for role, images in data.items()}
    costs = {key: body.metrics[key] for key in ("params", "macs")}
    return {**costs, **played(features, data, METHODS, EpisodePlan(None, SHOTS, None, DRAWS), context)}


if __name__ == "__main__":
    main()
