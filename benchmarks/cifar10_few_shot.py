"""CIFAR-10, 10 classes with 5 labelled images each: what heads reach on a network's features, over many draws.

    python -m benchmarks.cifar10_few_shot CIFAR ELSEWHERE WEIGHTS [--draws 100] [--auto-draws 20] [--runs runs]

Features and trained networks are kept in --runs, and a run that was stopped goes on after them; from nothing about an
hour and a quarter on two cores.

CIFAR is a folder with cifar-10-batches-py. ELSEWHERE is an .npz of other images without use of their labels, here the
first 25,000 training images of CIFAR-100. WEIGHTS is imagenet_mobilenet_v2_1.0_224_int8w.npz (see
imagenet_mobilenetv2.py).

Each draw takes 5 of 300 training images of each class as its support; transductive methods learn from 3,000 other
training images without labels; all 10,000 test images are answered. Draws are the same for all methods and features.

Features: raw pixels; MobileNetV2 with random weights; the teacher, MobileNetV2 trained on ImageNet, which sees pictures
at 192 pixels (bicubic) and their mirror images; the same in INT8; and the students' bodies of
recipes/cifar10-10way-5shot.yaml in INT8, which have learned the teacher's features without labels, from ELSEWHERE
(track a) or from CIFAR-10's training images (track b). INT8 networks are calibrated on ELSEWHERE, b on CIFAR-10.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.cifar10_exercise import RECIPE, parser_for, settings_of
from benchmarks.common import publish
from edgevit import pipeline
from edgevit.artifacts import Artifact
from edgevit.cli.output import terminal_context
from edgevit.configs import Cifar, Export, Quantize
from edgevit.context import Context
from edgevit.data import dataset_artifacts, open_dataset
from edgevit.data.dataset import Dataset
from edgevit.data.splits import drawn
from edgevit.fewshot.embeddings import Embedder
from edgevit.fewshot.episodes import Plan, draw_episodes, mean_interval, play, summary
from edgevit.fewshot.heads import Floats
from edgevit.recipe import load_recipe
from edgevit.runtimes.base import SessionOptions
from edgevit.targets import target_for

SHOTS, UNIVERSE, POOL = 5, 300, 3000
COSTS = ("macs", "params", "size_bytes", "sqnr_db")
WITH_POOL = ("teacher", "teacher INT8", "student a INT8", "student b INT8")
INDUCTIVE = ("nearest_centroid", "ridge", "logistic_regression", "knn")
METHODS = (*INDUCTIVE, "label_propagation", "gaussian_mixture", "balanced_mixture")
Features = dict[str, Floats]


def main() -> None:
    parser = parser_for(__doc__, draws=100)
    parser.add_argument("--auto-draws", type=int, default=20)
    asked = parser.parse_args()
    torch.set_num_threads(2)
    context, data = terminal_context(), _data(asked.cifar)
    models = _models(asked, context)
    features = {name: _features(model, data, asked.runs, context) for name, model in models.items()}
    features["raw pixels"] = {role: _pixels(dataset) for role, dataset in data.items()}
    played = {
        name: _played(one, data, METHODS if name in WITH_POOL else INDUCTIVE, asked.draws, context)
        for name, one in features.items()
    }
    publish(
        "cifar10_few_shot",
        {
            "shots": SHOTS,
            "support_drawn_from": 10 * UNIVERSE,
            "pool_images": POOL,
            "models": {name: {key: model.metrics.get(key) for key in COSTS} for name, model in models.items()},
            "features": played,
            "gains_over_the_teachers_nearest_centroid": _gains(played),
            "auto": _played(features["teacher"], data, ("auto", *METHODS), asked.auto_draws, context),
        },
    )


def _data(cifar: Path) -> dict[str, Dataset]:
    few_shot = {"shots": UNIVERSE, "draw": 0}
    config = Cifar.model_validate({"source": "cifar10", "path": str(cifar.absolute()), "few_shot": few_shot})
    made = dataset_artifacts({"cifar": config}, Path(), [f"cifar.{role}" for role in ("support", "pool", "test")])
    opened = {name.removeprefix("cifar."): open_dataset(one) for name, one in made.items()}
    return {**opened, "pool": drawn(opened["pool"], POOL, seed=0)}


def _models(asked: argparse.Namespace, context: Context) -> dict[str, Artifact]:
    """The models whose features are compared, by what they are called in the result."""
    recipe = load_recipe(RECIPE, settings_of(asked))
    kept = [stage for stage in recipe.stages if stage.id in ("imagenet", "body/a", "body/b")]
    random = kept[0].model_copy(update={"id": "random", "weights": None})
    made = [*kept, random]
    for model, calibration in (("imagenet", "elsewhere"), ("body/a", "elsewhere"), ("body/b", "cifar.train")):
        name = model.replace("/", "-")
        made.append(Export(stage="export", id=f"onnx/{name}", model=model, embedding=True))
        made.append(Quantize(stage="quantize", id=f"int8/{name}", model=f"onnx/{name}", calibration=calibration))
    done = pipeline.run(recipe.model_copy(update={"stages": tuple(made)}), RECIPE.parent, asked.runs, context)
    names = {
        "random": "random",
        "teacher": "imagenet",
        "teacher INT8": "int8/imagenet",
        "student a INT8": "int8/body-a",
        "student b INT8": "int8/body-b",
    }
    return {name: done[stage] for name, stage in names.items()}


def _features(model: Artifact, data: dict[str, Dataset], runs: Path, context: Context) -> Features:
    """The embeddings of each data set; those of files are kept here, those of checkpoints in the store's cache."""
    file = runs / f"features-{model.digest[:12]}.npz"
    if not file.is_file():
        with target_for("local-cpu").open(model, SessionOptions(threads=2)) as session:
            embed = Embedder(model, session, "cpu", 32, context.progress, runs / ".store" / "cache")
            np.savez(file, **{role: embed(dataset) for role, dataset in data.items()})
    with np.load(file, allow_pickle=False) as arrays:
        return {role: arrays[role] for role in data}


def _pixels(dataset: Dataset) -> Floats:
    return np.stack([dataset.image(index).reshape(-1) for index in range(len(dataset))]) / 255.0


def _played(
    features: Features, data: dict[str, Dataset], methods: Sequence[str], draws: int, context: Context
) -> dict[str, Any]:
    support, test = data["support"].labels, data["test"].labels
    assert support is not None
    episodes = list(draw_episodes(support, test, Plan(None, SHOTS, None, draws)))
    pool, base = features["pool"], None
    played = play(episodes, methods, features["support"], features["test"], pool, base, context.progress)
    seconds = dict(zip(played.methods, played.seconds, strict=True))
    accuracies = dict(zip(played.methods, played.accuracies.round(4).tolist(), strict=True))
    found = {
        name: {**one, "seconds": seconds[name], "accuracies": accuracies[name]} for name, one in summary(played).items()
    }
    return {"methods": found, **({"auto_chose": played.chosen} if played.chosen else {})}


def _gains(played: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of each method on each network's features, paired by draw."""
    reference = np.array(played["teacher"]["methods"]["nearest_centroid"]["accuracies"])
    return {
        name: {
            method: mean_interval(np.array(one["accuracies"]) - reference) for method, one in result["methods"].items()
        }
        for name, result in played.items()
        if name in WITH_POOL
    }


if __name__ == "__main__":
    main()
