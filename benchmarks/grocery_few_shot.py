"""Photos of groceries, 5 labelled images a class, on the features of a network trained on ImageNet: what heads reach.

    python -m benchmarks.grocery_few_shot GROCERY WEIGHTS [--network NAME] [--episodes 500] [--draws 20] [--runs runs]

GROCERY is the data set's folder with train/ and test/, phone photos of 81 classes (Klasson et al. 2019). WEIGHTS as for
cifar10_few_shot.py; images at 224 pixels and their mirror images. Supports come from train, queries are all of test:
episodes of 10 classes drawn at random, and draws of all 81. Nothing else is at hand: transductive methods learn from
the queries of their episode, so their rows are of another kind than the rest.
"""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks.cifar10_few_shot import INDUCTIVE, features_of, played
from benchmarks.common import publish
from benchmarks.draws import parser_of_draws
from benchmarks.imagenet_networks import add_network, networks, result_name
from edgevit.cli.output import terminal_context
from edgevit.configs import ImageFolder
from edgevit.data import dataset_artifacts, open_dataset
from edgevit.data.dataset import Dataset
from edgevit.fewshot.episodes import EpisodePlan

SIDE, SHOTS, WAYS = 224, 5, 10
METHODS = (*INDUCTIVE, "label_propagation", "gaussian_mixture")


def main() -> None:
    parser = parser_of_draws(__doc__, "grocery", draws=20)
    add_network(parser)
    parser.add_argument("--episodes", type=int, default=500)
    asked = parser.parse_args()
    torch.set_num_threads(2)
    context, data = terminal_context(), _data(asked.grocery)
    models = networks(asked, SIDE)
    plans = {
        "10-way": EpisodePlan(WAYS, SHOTS, None, asked.episodes),
        "all classes": EpisodePlan(None, SHOTS, None, asked.draws),
    }
    scores_of = {}
    for name, model in models.items():
        features = features_of(model, data, asked.runs, context)
        methods = METHODS if name == "teacher" else INDUCTIVE
        scores_of[name] = {title: played(features, data, methods, plan, context) for title, plan in plans.items()}
    publish(
        result_name("grocery_few_shot", asked.network),
        {
            "network": asked.network,
            "shots": SHOTS,
            "side_px": SIDE,
            "images": {role: len(images) for role, images in data.items()},
            "features": scores_of,
        },
    )


def _data(grocery: Path) -> dict[str, Dataset]:
    config = ImageFolder.model_validate({"source": "image_folder", "path": str(grocery.absolute()), "classes": "leaf"})
    made = dataset_artifacts({"grocery": config}, Path(), ["grocery.train", "grocery.test"])
    return {"support": open_dataset(made["grocery.train"]), "test": open_dataset(made["grocery.test"])}


if __name__ == "__main__":
    main()
