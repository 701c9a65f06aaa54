"""Whether random views of the pool help: heads fitted to support and pool, with plain features of the pool or not.

    python -m benchmarks.fewshot_pool_views GROCERY WEIGHTS [--draws 40] [--runs runs]

GROCERY and WEIGHTS as for grocery_few_shot.py; the ten classes and the size of the recipe `photos`. Each draw takes
five labelled training images of each class; the other training images are the pool. Features of the support are always
the mean of the plain image and its random views, as the stage `fewshot` takes them. All draws are tested on the same
images.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import publish
from benchmarks.draws import parser_of_draws
from benchmarks.imagenet_mobilenetv2 import BICUBIC_ARGS, MODEL, weights_file
from edgevit.configs import Fewshot, ImageFolder
from edgevit.data import dataset_artifacts, open_dataset
from edgevit.data.dataset import Dataset
from edgevit.fewshot.features import features_of
from edgevit.fewshot.heads import Floats
from edgevit.fewshot.methods import fit_head
from edgevit.inference.frozen_model import FrozenModel
from edgevit.models.creation import create_model
from edgevit.progress import SilentProgress

SIDE, SHOTS = 128, 5
CLASSES = (
    "Avocado", "Banana", "Carrots", "Cucumber", "Granny-Smith", "Kiwi", "Lemon", "Orange", "Regular-Tomato", "Zucchini",
)  # fmt: skip
METHODS = ("label_propagation", "gaussian_mixture", "logistic_regression", "nearest_centroid")
STAGE = Fewshot.model_validate({"stage": "fewshot", "id": "teacher", "model": "m", "support": "s"})


def main() -> None:
    asked = parser_of_draws(__doc__, "grocery", "weights", draws=40).parse_args()
    torch.set_num_threads(1)
    data, model = _data(asked.grocery), _model(weights_file(asked.weights, asked.runs))
    features: dict[str, Floats] = {}
    seconds: dict[str, float] = {}
    for name, role, views in (("plain", "train", 0), ("views", "train", STAGE.random_views), ("test", "test", 0)):
        start = time.perf_counter()
        features[name] = features_of(model, data[role], STAGE.augmentation, views, STAGE.seed, SilentProgress())
        seconds[name] = round(time.perf_counter() - start, 1)
    draws = [_accuracies(features, data, draw) for draw in range(asked.draws)]
    publish(
        "fewshot_pool_views",
        {
            "shots": SHOTS,
            "side_px": SIDE,
            "random_views": STAGE.random_views,
            "images": {role: len(dataset) for role, dataset in data.items()},
            "seconds": {"plain": seconds["plain"], "plain and views": seconds["views"]},
            "methods": {method: _compared([draw[method] for draw in draws]) for method in METHODS},
        },
    )


def _data(grocery: Path) -> dict[str, Dataset]:
    fields = {"source": "image_folder", "path": str(grocery.absolute()), "classes": "leaf", "include_classes": CLASSES}
    config = ImageFolder.model_validate(fields)
    made = dataset_artifacts({"grocery": config}, Path(), ["grocery.train", "grocery.test"])
    return {role: open_dataset(made[f"grocery.{role}"]) for role in ("train", "test")}


def _model(weights: Path) -> FrozenModel:
    from safetensors.torch import load_file

    built = create_model(MODEL, None, SIDE, BICUBIC_ARGS)
    built.module.load_state_dict(load_file(weights))
    return FrozenModel(built.module, built.preprocess, torch.device("cpu"))


def _accuracies(features: dict[str, Floats], data: dict[str, Dataset], draw: int) -> dict[str, tuple[float, float]]:
    """The accuracy of each method with a plain pool, and with the mean of its views."""
    labels, test_labels = data["train"].labels, data["test"].labels
    assert labels is not None
    assert test_labels is not None
    order = np.random.default_rng(draw).permutation(len(labels))
    support = np.concatenate([order[labels[order] == label][:SHOTS] for label in range(len(CLASSES))])
    pool = np.setdiff1d(order, support)
    accuracies = {}
    for method in METHODS:
        both = []
        for kind in ("plain", "views"):
            head = fit_head(method, features["views"][support], labels[support], len(CLASSES), features[kind][pool])
            both.append(float((head.logits(features["test"]).argmax(1) == test_labels).mean()))
        accuracies[method] = (both[0], both[1])
    return accuracies


def _compared(draws: list[tuple[float, float]]) -> dict[str, Any]:
    """Mean accuracies, and the mean of plain minus views with its 95% interval over draws."""
    plain, views = np.array(draws).T
    gain = plain - views
    half = 1.96 * gain.std(ddof=1) / np.sqrt(len(gain))
    return {
        "plain": float(plain.mean()),
        "views": float(views.mean()),
        "difference": {
            "value": float(gain.mean()),
            "low": float(gain.mean() - half),
            "high": float(gain.mean() + half),
        },
        "raw": [[round(a, 4), round(b, 4)] for a, b in draws],
    }


if __name__ == "__main__":
    main()
