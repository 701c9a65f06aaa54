"""Whether pre-training without labels helps a network pretrained on ImageNet, on few images of ten classes.

    python -m benchmarks.pretraining_on_photos CIFAR GROCERY WEIGHTS [--draws 3] [--runs runs]

The arguments are as for pretraining_downstream.py, which has the photos of all 81 kinds of groceries.
pretraining_on_photos.yaml holds the chains. EfficientNet-Lite2 goes on from its weights of ImageNet without labels
(SimCLR, with `freeze_batch_norm`). It is adapted by five labels a class, and so is the network without SimCLR.

- Photos of ten kinds of groceries: the 391 training photos beside the labelled ones, five epochs.
- CIFAR-10: 1,000 training images, two epochs.

Each draw takes other labelled images, and other seeds of the trainings. Accuracies are those of the test images, which
choose nothing. `gain` is the paired difference of the draws. --draw makes one draw and publishes nothing; several
processes may share RUNS. A run that was stopped goes on.
"""

from __future__ import annotations

import argparse

from benchmarks.common import ROOT, publish
from benchmarks.draws import accuracy, artifacts_of_draws, paired, parser_of_draws, recipe_of_draw, stages_of
from edgevit.recipe import Recipe

RECIPE = ROOT / "benchmarks" / "pretraining_on_photos.yaml"
TRAINS = ("pretrain", "fewshot")
DATASETS = ("groceries", "cifar")


def main() -> None:
    parser = parser_of_draws(__doc__, "cifar", "grocery", "weights")
    parser.add_argument("--draw", type=int, help="make this one and publish nothing")
    asked = parser.parse_args()
    if asked.draw is not None:
        artifacts_of_draws(lambda _: _recipe(asked, asked.draw), 1, asked.runs)
        return
    made = artifacts_of_draws(lambda draw: _recipe(asked, draw), asked.draws, asked.runs)
    rows = {}
    for name in DATASETS:
        before, after = (accuracy(made, f"accuracy/{name}/{start}") for start in ("imagenet", "simclr"))
        rows[name] = {"imagenet": before, "simclr": {**after, "gain": paired(after, before)}}
    publish(
        "pretraining_on_photos",
        {
            "draws": asked.draws,
            "recipe": stages_of(_recipe(asked, 0), TRAINS),
            "accuracy": rows,
        },
    )


def _recipe(asked: argparse.Namespace, draw: int) -> Recipe:
    folders = {"cifar": asked.cifar, "unlabelled": asked.cifar, "groceries": asked.grocery}
    return recipe_of_draw(RECIPE, draw, folders, [f"stages.imagenet.weights={asked.weights.absolute()}"], TRAINS)


if __name__ == "__main__":
    main()
