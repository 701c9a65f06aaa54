"""The students' bodies of the exercise, in INT8: what heads reach on their features, draw by draw beside the teacher.

    python -m benchmarks.cifar10_students CIFAR ELSEWHERE WEIGHTS SMALL [--network NAME] [--draws 20] [--runs runs]

Data, draws and methods are those of cifar10_few_shot.py, the first 20 of them. ELSEWHERE is an .npz of other images,
here the first 25,000 training images of CIFAR-100, whose labels are not used. SMALL are MobileNetV2's weights
(imagenet_mobilenetv2.py). The bodies are those of recipes/cifar10-10way-5shot.yaml: they have learned the teacher's
features from ELSEWHERE (track a) or from CIFAR-10's training images (track b), without labels, once for all draws.
Each network is exported with its embedding and quantized, the teacher too; a and the teacher are calibrated on
ELSEWHERE, b on CIFAR-10's training images.

`gains` are paired by draw, against the float teacher's nearest centroid.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch

from benchmarks.cifar10_exercise import RECIPE, parser_for, settings_of
from benchmarks.cifar10_few_shot import SHOTS, data_of, features_of, played
from benchmarks.common import publish
from benchmarks.imagenet_networks import result_name
from edgevit import pipeline
from edgevit.artifacts import Artifact
from edgevit.cli.output import terminal_context
from edgevit.configs import Export, Quantize
from edgevit.context import Context
from edgevit.fewshot.episodes import EpisodePlan, mean_interval
from edgevit.recipe import load_recipe

METHODS = ("nearest_centroid", "logistic_regression", "label_propagation", "gaussian_mixture")
CALIBRATION = {"imagenet": "elsewhere", "body/a": "elsewhere", "body/b": "cifar.train"}
COSTS = ("macs", "params", "size_bytes", "sqnr_db", "embedding_sqnr_db")


def main() -> None:
    asked = parser_for(__doc__, draws=20).parse_args()
    torch.set_num_threads(2)
    context, data = terminal_context(), data_of(asked.cifar)
    models, plan = _models(asked, context), EpisodePlan(None, SHOTS, None, asked.draws)
    scores_of = {}
    for name, model in models.items():
        features = features_of(model, data, asked.runs, context)
        scores_of[name] = played(features, data, METHODS, plan, context)["methods"]
    reference = np.array(scores_of["imagenet"]["nearest_centroid"]["accuracies"])
    gains = {
        name: {method: mean_interval(np.array(scores["accuracies"]) - reference) for method, scores in methods.items()}
        for name, methods in scores_of.items()
    }
    costs = {name: {key: model.metrics.get(key) for key in COSTS} for name, model in models.items()}
    publish(result_name("cifar10_students", asked.network), {"models": costs, "features": scores_of, "gains": gains})


def _models(asked: argparse.Namespace, context: Context) -> dict[str, Artifact]:
    """The teacher, and the INT8 file of each network, by the id of its stage."""
    recipe = load_recipe(RECIPE, settings_of(asked))
    stages: list[Any] = [stage for stage in recipe.stages if stage.id in {"small", *CALIBRATION}]
    for model, calibration in CALIBRATION.items():
        name = model.replace("/", "-")
        stages.append(Export(stage="export", id=f"onnx/{name}", model=model, embedding=True))
        stages.append(Quantize(stage="quantize", id=f"int8/{name}", model=f"onnx/{name}", calibration=calibration))
    made = pipeline.run(recipe.model_copy(update={"stages": tuple(stages)}), RECIPE.parent, asked.runs, context)
    return {name: artifact for name, artifact in made.items() if name == "imagenet" or name.startswith("int8/")}


if __name__ == "__main__":
    main()
