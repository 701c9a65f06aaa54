"""CIFAR-10, 10 classes with 5 labelled images each, on the features of a network trained on ImageNet: what heads reach.

    python -m benchmarks.cifar10_few_shot CIFAR WEIGHTS [--draws 100] [--auto-draws 20] [--runs runs]

CIFAR is a folder with cifar-10-batches-py. WEIGHTS is imagenet_mobilenet_v2_1.0_224_int8w.npz (see
imagenet_mobilenetv2.py). The network sees pictures at 192 pixels (bicubic), answers over the picture and its mirror
image, and is not changed. Each draw takes 5 of 300 training images of each class as its support; transductive methods
learn from 3,000 other training images without labels; all 10,000 test images are answered. Draws are the same for all
methods and features.

Rows: raw pixels, a network with random weights, and the teacher, each by every head; for the teacher those that learn
from the pool too, and `auto`, which chooses inside each support.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ruamel.yaml import YAML
from safetensors.torch import save_file

from benchmarks import imagenet_mobilenetv2
from benchmarks.common import publish
from edgevit import pipeline
from edgevit.artifacts import Artifact
from edgevit.cli.output import terminal_context
from edgevit.configs import Cifar
from edgevit.data import dataset_artifacts, open_dataset
from edgevit.data.dataset import Dataset
from edgevit.fewshot.episodes import Plan, draw_episodes, play, summary
from edgevit.fewshot.heads import Floats
from edgevit.progress import SilentProgress
from edgevit.recipe import load_recipe

SIDE, SHOTS, UNIVERSE, POOL = 192, 5, 300, 3000
INDUCTIVE = ("nearest_centroid", "ridge", "logistic_regression", "knn")
METHODS = (*INDUCTIVE, "label_propagation", "gaussian_mixture", "balanced_mixture")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cifar", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--auto-draws", type=int, default=20)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    asked = parser.parse_args()
    asked.runs.mkdir(parents=True, exist_ok=True)
    recipe_file = asked.runs / "cifar10-few-shot.yaml"
    with recipe_file.open("w") as file:
        YAML().dump(_recipe(asked, _weights(asked)), file)
    torch.set_num_threads(2)
    done = pipeline.run(load_recipe(recipe_file), recipe_file.parent, asked.runs, terminal_context())
    publish(
        "cifar10_few_shot",
        {
            "shots": SHOTS,
            "side_px": SIDE,
            "support_drawn_from": 10 * UNIVERSE,
            "pool_images": POOL,
            "macs": done["teacher"].metrics["macs"],
            "features": {
                "raw pixels": _on_raw_pixels(asked),
                **{name: _figures(done[f"heads/{name}"]) for name in ("random", "teacher")},
            },
            "auto": _figures(done["auto"]),
        },
    )


def _recipe(asked: argparse.Namespace, weights: Path) -> dict[str, Any]:
    overlay = {**imagenet_mobilenetv2.MODEL_ARGS["pretrained_cfg_overlay"], "interpolation": "bicubic"}
    network = {
        "stage": "load",
        "model": imagenet_mobilenetv2.MODEL,
        "model_args": {**imagenet_mobilenetv2.MODEL_ARGS, "pretrained_cfg_overlay": overlay},
        "image_size": SIDE,
        "test_time_views": ["flip"],
    }
    episodes = {
        "stage": "evaluate",
        "protocol": "episodes",
        "data": "cifar.test",
        "support": "cifar.support",
        "pool": "cifar.pool",
        "max_pool_images": POOL,
        "shots": SHOTS,
        "episodes": asked.draws,
    }
    data = {"source": "cifar10", "path": str(asked.cifar.absolute()), "few_shot": {"shots": UNIVERSE, "draw": 0}}
    return {
        "name": "cifar10-few-shot",
        "datasets": {"cifar": data},
        "stages": [
            {**network, "id": "teacher", "weights": str(weights)},
            {**network, "id": "random", "classes_of": "cifar.support"},
            {**episodes, "id": "heads/teacher", "model": "teacher", "methods": list(METHODS)},
            {**episodes, "id": "heads/random", "model": "random", "methods": list(INDUCTIVE)},
            {
                **episodes,
                "id": "auto",
                "model": "teacher",
                "methods": ["auto", *METHODS],
                "episodes": asked.auto_draws,
            },
        ],
    }


def _weights(asked: argparse.Namespace) -> Path:
    path: Path = (asked.runs / "imagenet_mobilenetv2.safetensors").absolute()
    if not path.is_file():
        save_file(imagenet_mobilenetv2.state_dict(asked.weights), path)
    return path


def _figures(evaluation: Artifact) -> dict[str, Any]:
    with np.load(evaluation.file("episodes.npz"), allow_pickle=False) as arrays:
        accuracies = dict(zip(arrays["methods"].tolist(), arrays["accuracies"].round(4).tolist(), strict=True))
    found = {name: {**one, "accuracies": accuracies[name]} for name, one in evaluation.metrics["episodes"].items()}
    chosen = evaluation.metrics.get("auto_chose")
    return {"methods": found, **({"auto_chose": chosen} if chosen else {})}


def _on_raw_pixels(asked: argparse.Namespace) -> dict[str, Any]:
    """The same draws on the pictures themselves."""
    config = Cifar.model_validate(
        {"source": "cifar10", "path": str(asked.cifar.absolute()), "few_shot": {"shots": UNIVERSE, "draw": 0}}
    )
    made = dataset_artifacts({"cifar": config}, Path(), ["cifar.support", "cifar.test"])
    support, test = (open_dataset(made[f"cifar.{role}"]) for role in ("support", "test"))
    assert support.labels is not None
    plan = Plan(None, SHOTS, None, asked.draws)
    episodes = list(draw_episodes(support.labels, test.labels, plan))
    played = play(episodes, INDUCTIVE, _pixels(support), _pixels(test), None, None, SilentProgress())
    return {"methods": summary(played)}


def _pixels(dataset: Dataset) -> Floats:
    return np.stack([dataset.image(index).reshape(-1) for index in range(len(dataset))]) / 255.0


if __name__ == "__main__":
    main()
