"""How long a student should train on five labelled photos of each of ten classes, and nothing else.

    python -m benchmarks.few_photos_epochs GROCERY SMALL [--draws 3] [--runs runs]

GROCERY is the folder of the Grocery Store Dataset, and SMALL are MobileNetV2's weights (imagenet_mobilenetv2.py), the
teacher's. few_photos_epochs.yaml holds the chain. The student starts from random weights, as `edgevit init` writes it
for such a folder.

Each draw takes other labelled photos, and other seeds of the trainings. The test photos choose nothing but the length
that `init` writes. `gain` are the points above the shortest training, paired by draws.
"""

from __future__ import annotations

import argparse

from benchmarks.common import ROOT, publish
from benchmarks.draws import accuracy, artifacts_of_draws, paired, parser_of_draws, recipe_of_draw
from benchmarks.imagenet_networks import NETWORKS
from edgevit.recipe import Recipe

RECIPE = ROOT / "benchmarks" / "few_photos_epochs.yaml"
EVALUATION = "acc/few/"


def main() -> None:
    asked = parser_of_draws(__doc__, "grocery", "small").parse_args()
    made = artifacts_of_draws(lambda draw: _recipe(asked, draw), asked.draws, asked.runs)
    accuracies = {id.removeprefix(EVALUATION): accuracy(made, id) for id in made[0] if id.startswith(EVALUATION)}
    shortest = next(iter(accuracies.values()))
    publish(
        "few_photos_epochs",
        {
            "draws": len(made),
            "labelled_images": made[0]["photos.support"].metrics["images"],
            "teacher": accuracy(made, "acc/t/teacher"),
            "epochs": {
                epochs: {**found, "gain": paired(found, shortest, scale=100)} for epochs, found in accuracies.items()
            },
        },
    )


def _recipe(asked: argparse.Namespace, draw: int) -> Recipe:
    small = NETWORKS["mobilenetv2"]
    settings = [
        f"stages.mobile.weights={small.weights(asked.small, asked.runs)}",
        f"stages.mobile.model_args={small.model_args}",
    ]
    return recipe_of_draw(RECIPE, draw, {"photos": asked.grocery}, settings, ("distill",))


if __name__ == "__main__":
    main()
