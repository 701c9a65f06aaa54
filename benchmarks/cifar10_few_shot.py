"""CIFAR-10, 10 classes with 5 labelled images each, on the features of a network trained on ImageNet: what heads reach.

    python -m benchmarks.cifar10_few_shot CIFAR WEIGHTS [--network NAME] [--draws 100] [--auto-draws 20]
        [--teacher-alone] [--runs runs]

About an hour on two cores; features are kept in --runs, and a run that was stopped goes on after them.

CIFAR is a folder with cifar-10-batches-py. WEIGHTS is the file of the network's weights (imagenet_networks.py). The
network sees images at 192 pixels (bicubic), answers over the image and its mirror image, and is not changed. Each draw
takes 5 of 300 training images of each class as its support; transductive methods learn from 3,000 other training images
without labels; all 10,000 test images are answered. Draws are the same for all methods and features.

Rows: raw pixels, a network with random weights, and the teacher, each by every head; for the teacher those that learn
from the pool too, and `auto`, which chooses inside each support. With --teacher-alone, the first two are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import publish
from benchmarks.draws import parser_of_draws
from benchmarks.imagenet_networks import add_network, networks, result_name
from edgevit.artifacts import Artifact
from edgevit.cli.output import terminal_context
from edgevit.configs import Cifar
from edgevit.context import Context
from edgevit.data import dataset_artifacts, open_dataset
from edgevit.data.dataset import Dataset
from edgevit.data.splits import sample_by_hash
from edgevit.fewshot.embeddings import Embedder
from edgevit.fewshot.episodes import EpisodePlan, draw_episodes, run_episodes, summary
from edgevit.fewshot.heads import Floats
from edgevit.runtimes.base import SessionOptions
from edgevit.targets import target_for

SIDE, SHOTS, UNIVERSE, POOL = 192, 5, 300, 3000
INDUCTIVE = ("nearest_centroid", "ridge", "logistic_regression", "knn")
METHODS = (*INDUCTIVE, "label_propagation", "gaussian_mixture", "balanced_mixture")
Features = dict[str, Floats]


def main() -> None:
    parser = parser_of_draws(__doc__, "cifar", draws=100)
    add_network(parser)
    parser.add_argument("--auto-draws", type=int, default=20)
    parser.add_argument("--teacher-alone", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(2)
    context, data, models = terminal_context(), data_of(asked.cifar), networks(asked, SIDE)
    teacher = features_of(models["teacher"], data, asked.runs, context)
    plan, few = EpisodePlan(None, SHOTS, None, asked.draws), EpisodePlan(None, SHOTS, None, asked.auto_draws)
    baselines = {}
    if not asked.teacher_alone:
        pixels = {role: _pixels(dataset) for role, dataset in data.items()}
        random = features_of(models["random"], data, asked.runs, context)
        baselines = {
            "raw pixels": played(pixels, data, INDUCTIVE, plan, context),
            "random": played(random, data, INDUCTIVE, plan, context),
        }
    publish(
        result_name("cifar10_few_shot", asked.network),
        {
            "network": asked.network,
            "shots": SHOTS,
            "side_px": SIDE,
            "support_drawn_from": 10 * UNIVERSE,
            "pool_images": POOL,
            "macs": models["teacher"].metrics["macs"],
            "features": {**baselines, "teacher": played(teacher, data, METHODS, plan, context)},
            "auto": played(teacher, data, ("auto", *METHODS), few, context),
        },
    )


def data_of(cifar: Path) -> dict[str, Dataset]:
    few_shot = {"shots": UNIVERSE, "draw": 0}
    config = Cifar.model_validate({"source": "cifar10", "path": str(cifar.absolute()), "few_shot": few_shot})
    made = dataset_artifacts({"cifar": config}, Path(), [f"cifar.{role}" for role in ("support", "pool", "test")])
    opened = {name.removeprefix("cifar."): open_dataset(dataset) for name, dataset in made.items()}
    return {**opened, "pool": sample_by_hash(opened["pool"], POOL, seed=0)}


def features_of(model: Artifact, data: dict[str, Dataset], runs: Path, context: Context) -> Features:
    with target_for("local-cpu", Context()).open(model, SessionOptions(threads=2)) as session:
        embed = Embedder(model, session, "cpu", 32, context.progress, runs / ".store" / "cache")
        return {role: embed(dataset) for role, dataset in data.items()}


def _pixels(dataset: Dataset) -> Floats:
    return np.stack([dataset.image(index).reshape(-1) for index in range(len(dataset))]) / 255.0


def played(
    features: Features, data: dict[str, Dataset], methods: Sequence[str], plan: EpisodePlan, context: Context
) -> dict[str, Any]:
    """Each method's accuracies over the episodes that the plan draws from support and test, and what came of them."""
    support, test = data["support"].labels, data["test"].labels
    assert support is not None
    episodes = list(draw_episodes(support, test, plan))
    pool, base = features.get("pool"), None
    result = run_episodes(episodes, methods, features["support"], features["test"], pool, base, context.progress)
    seconds = dict(zip(result.methods, result.seconds, strict=True))
    accuracies = dict(zip(result.methods, result.accuracies.round(4).tolist(), strict=True))
    rows = {
        name: {**row, "seconds": seconds[name], "accuracies": accuracies[name]} for name, row in summary(result).items()
    }
    return {"methods": rows, **({"auto_chose": result.chosen} if result.chosen else {})}


if __name__ == "__main__":
    main()
