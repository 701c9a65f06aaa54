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
import statistics
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import ROOT, publish
from benchmarks.imagenet_networks import NETWORKS
from benchmarks.pretraining import paired_interval
from edgevit import pipeline
from edgevit.artifacts import Artifact
from edgevit.cli.output import terminal_context
from edgevit.recipe import Recipe, load_recipe

RECIPE = ROOT / "benchmarks" / "few_photos_epochs.yaml"
EVALUATION = "acc/few/"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("grocery", "small"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    made: list[dict[str, Artifact]] = []
    for draw in range(asked.draws):
        made.append(pipeline.run(_recipe(asked, draw), RECIPE.parent, asked.runs, terminal_context()))
        accuracies = {
            id.removeprefix(EVALUATION): [_top1(one[id]) for one in made] for id in made[0] if id.startswith(EVALUATION)
        }
        teacher = [_top1(one["acc/t/teacher"]) for one in made]
        shortest = next(iter(accuracies.values()))
        publish(
            "few_photos_epochs",
            {
                "draws": len(made),
                "labelled_images": made[0]["photos.support"].metrics["images"],
                "teacher": {"mean": statistics.mean(teacher), "each": teacher},
                "epochs": {epochs: _row(each, shortest) for epochs, each in accuracies.items()},
            },
        )


def _recipe(asked: argparse.Namespace, draw: int) -> Recipe:
    small = NETWORKS["mobilenetv2"]
    settings = [
        f"datasets.photos.path={asked.grocery.absolute()}",
        f"datasets.photos.few_shot.draw={draw}",
        f"stages.mobile.weights={small.weights(asked.small, asked.runs)}",
        f"stages.mobile.model_args={small.model_args}",
    ]
    recipe = load_recipe(RECIPE, settings)
    seeded = [stage.model_copy(update={"seed": draw}) if stage.stage == "distill" else stage for stage in recipe.stages]
    return recipe.model_copy(update={"stages": tuple(seeded)})


def _top1(evaluation: Artifact) -> float:
    return float(evaluation.metrics["top1"]["value"])


def _row(each: list[float], shortest: list[float]) -> dict[str, Any]:
    gains = [100 * (one - other) for one, other in zip(each, shortest, strict=True)]
    gain = {"mean": statistics.mean(gains), "each": gains, "interval": paired_interval(gains)}
    return {"mean": statistics.mean(each), "each": each, "gain": gain}


if __name__ == "__main__":
    main()
