"""What pre-training without labels brings: few-shot accuracy with and without it, and of an INT8 student (CIFAR-10).

    python -m benchmarks.pretraining_downstream CIFAR GROCERY WEIGHTS [--draws 3] [--runs runs]

CIFAR is the folder that holds `cifar-10-batches-py`, GROCERY that of the Grocery Store Dataset, and WEIGHTS are
EfficientNet-Lite2's. pretraining_downstream.yaml holds both chains.

- CIFAR-10: a small ResNet learns from 5,000 training images without labels (SimCLR). It and the same network with its
  initial weights are each adapted by five labels a class, and teach a smaller one, which is quantized.
- Photos of 81 classes: EfficientNet-Lite2 goes on from its weights of ImageNet without labels (SimCLR), on the training
  photos beside the labelled ones. One training keeps the statistics of batch norm, one replaces them. Both results, and
  the network as it was, are adapted by five labels a class.

Each draw takes other labelled images, and other seeds of the trainings; the initial weights of the small ResNet stay
the same. Accuracies are those of the test images, which choose nothing.
`gain` is the paired difference of the draws. A run that was stopped goes on.
"""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks.common import ROOT, publish
from benchmarks.draws import accuracy, artifacts_of_draws, paired, parser_of_draws, recipe_of_draw, stages_of
from edgevit.artifacts import Artifact
from edgevit.recipe import Recipe

RECIPE = ROOT / "benchmarks" / "pretraining_downstream.yaml"
TRAINS = ("pretrain", "distill", "fewshot")
STARTS = {  # without pre-training, and with it
    "untrained": ("pretrained",),
    "imagenet": ("simclr", "new-statistics"),
}


def main() -> None:
    asked = parser_of_draws(__doc__, "cifar", "grocery", "weights").parse_args()
    made = artifacts_of_draws(lambda draw: _recipe(asked, draw), asked.draws, asked.runs)
    publish(
        "pretraining_downstream",
        {
            "draws": asked.draws,
            "recipe": stages_of(_recipe(asked, 0), TRAINS),
            "accuracy": {
                model: {
                    start: _gains(made, model, start, base)
                    for base in STARTS
                    for start in (base, *STARTS[base])
                    if f"accuracy/{model}/{start}" in made[0]
                }
                for model in ("teacher", "int8")
            },
        },
    )


def _recipe(asked: argparse.Namespace, draw: int) -> Recipe:
    folders = {"cifar": asked.cifar, "unlabelled": asked.cifar, "photos": asked.grocery}
    return recipe_of_draw(RECIPE, draw, folders, [f"stages.imagenet.weights={asked.weights.absolute()}"], TRAINS)


def _gains(made: list[dict[str, Artifact]], model: str, start: str, base: str) -> dict[str, Any]:
    """The accuracy of each draw, the mean, and the differences from the chain without pre-training."""
    row = accuracy(made, f"accuracy/{model}/{start}")
    if start != base:
        row["gain"] = paired(row, accuracy(made, f"accuracy/{model}/{base}"))
    return row


if __name__ == "__main__":
    main()
