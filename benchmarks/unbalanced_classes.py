"""Classes of unequal size: what class weights, balanced sampling and logit adjustment do to accuracy.

    python -m benchmarks.unbalanced_classes CIFAR GROCERY WEIGHTS [--only heads|training] [--runs runs]

About fifteen minutes on one core. CIFAR and WEIGHTS as for cifar10_few_shot.py, GROCERY as for grocery_few_shot.py. The
sets are made unbalanced by dropping training images: the largest class keeps LARGEST of them, the smallest as many
divided by the ratio, and the classes between lie on an exponential curve. Which class is large, and which images stay,
is drawn from the seed. Grocery has the classes with at least LARGEST training images.

Heads: on the features of MobileNetV2, trained on ImageNet and frozen. Training: a student of 0.5 million parameters,
from random weights, at 32 pixels. No setting was chosen by looking at test images.

Balanced accuracy is the mean recall of all classes on the test images. `top1` weighs the test images so that the
classes have their shares of the training images: the accuracy where images come as in training. Gains are paired by
draw with the same classifier without a correction.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, recall_score

from benchmarks.common import RESULTS, publish
from benchmarks.draws import parser_of_draws
from benchmarks.imagenet_mobilenetv2 import BICUBIC_ARGS, MODEL, MODEL_ARGS, state_dict
from edgevit.artifacts import Json
from edgevit.configs import Cifar, ImageFolder, Train
from edgevit.context import Context
from edgevit.data import dataset_artifacts, open_dataset
from edgevit.data.dataset import Dataset, Indices, Labels
from edgevit.fewshot.episodes import mean_interval
from edgevit.fewshot.heads import Floats
from edgevit.fewshot.methods import fit_head
from edgevit.inference.frozen_model import FrozenModel
from edgevit.inference.over_dataset import outputs_of
from edgevit.models import create_model
from edgevit.training.class_balance import ClassBalance
from edgevit.training.classifier_learner import ClassifierLearner
from edgevit.training.loop.setup import TrainingSetup, label_loss
from edgevit.training.loop.streams import labelled_stream, sampled
from edgevit.training.objectives import label_objective

RATIOS = (2, 5, 20)
LARGEST = {"CIFAR-10": 50, "Grocery": 40}
SIDES = {"CIFAR-10": 96, "Grocery": 128}  # pixels that the frozen network sees
HEAD_IMAGES = {"train": 1500, "test": 1000}  # of CIFAR-10, the first; heads draw from these
TRAINING_IMAGES = {"train": 3000, "test": 2000}
HEADS = ("logistic_regression", "ridge")
CORRECTIONS: dict[str, ClassBalance] = {
    "none": ClassBalance(),
    "balanced": ClassBalance("balanced"),
    "effective_number": ClassBalance("effective_number", 0.999),
    "logit_adjustment": ClassBalance(tau=1.0),
}
TRAINING_RATIO, TRAINING_LARGEST = 20, 250
TRAININGS: dict[str, dict[str, Any]] = {
    "none": {},
    "balanced": {"class_weights": "balanced"},
    "effective_number": {"class_weights": "effective_number"},
    "sampling": {"sampling": "balanced"},
    "logit_adjustment": {"logit_adjustment": 1.0},
}
STUDENT: dict[str, Any] = {"model": "test_resnet", "image_size": 32, "epochs": 20, "learning_rate": 2e-3}


class Images(NamedTuple):
    """Features (or none of them yet) and labels of training and test images."""

    train: Floats
    train_labels: Labels
    test: Floats
    test_labels: Labels


def main() -> None:
    parser = parser_of_draws(__doc__, "cifar", "grocery", "weights", draws=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", choices=("heads", "training"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # scikit-learn's, of iterations
    result: Json = {}
    if asked.only != "training":
        sets = {
            "CIFAR-10": _features(_cifar(asked.cifar, HEAD_IMAGES), SIDES["CIFAR-10"], BICUBIC_ARGS, asked),
            "Grocery": _features(_grocery(asked.grocery), SIDES["Grocery"], MODEL_ARGS, asked),
        }
        result["heads"] = {name: _heads(images, LARGEST[name], asked.draws) for name, images in sets.items()}
    if asked.only != "heads":
        result["training"] = {
            "CIFAR-10": {str(TRAINING_RATIO): _trainings(_cifar(asked.cifar, TRAINING_IMAGES), asked.seeds)}
        }
    sizes = {"largest_class": LARGEST, "largest_class_of_training": TRAINING_LARGEST}
    publish("unbalanced_classes", {**sizes, **_parts_before(), **result})


def unbalanced(labels: Labels, largest: int, ratio: float, seed: int) -> Indices:
    """The images that stay: an exponential curve of class sizes from `largest` down to `largest` / `ratio`."""
    rng, num_classes = np.random.default_rng(seed), int(labels.max()) + 1
    shares = ratio ** -(rng.permutation(num_classes) / (num_classes - 1))
    kept = [
        rng.permutation(np.flatnonzero(labels == label))[: max(1, round(largest * share))]
        for label, share in enumerate(shares)
    ]
    return np.sort(np.concatenate(kept))


def _heads(images: Images, largest: int, draws: int) -> Json:
    """For each ratio and head, the corrections' accuracies over the draws."""
    rows_of: Json = {}
    num_classes = int(images.train_labels.max()) + 1
    for ratio in RATIOS:
        scores: dict[tuple[str, str], list[Json]] = {}
        for seed in range(draws):
            kept = unbalanced(images.train_labels, largest, ratio, seed)
            support, labels = images.train[kept], images.train_labels[kept]
            for head in HEADS:
                for name, balance in CORRECTIONS.items():
                    logits = fit_head(head, support, labels, num_classes, balance=balance).logits(images.test)
                    scores.setdefault((head, name), []).append(_scores(logits, images.test_labels, labels))
            logits = fit_head("nearest_centroid", support, labels, num_classes).logits(images.test)
            scores.setdefault(("nearest_centroid", "none"), []).append(_scores(logits, images.test_labels, labels))
        by_head: dict[str, dict[str, list[Json]]] = {}
        for (head, name), some in scores.items():
            by_head.setdefault(head, {})[name] = some
        rows_of[str(ratio)] = {head: _summary(some) for head, some in by_head.items()}
    return rows_of


def _trainings(cifar: tuple[Dataset, Dataset], seeds: int) -> Json:
    """The corrections' accuracies over the seeds, each with its own draw of the images."""
    train, test = cifar
    assert train.labels is not None
    assert test.labels is not None
    scores: dict[str, list[Json]] = {name: [] for name in TRAININGS}
    for seed in range(seeds):
        dataset = train.subset(unbalanced(train.labels, TRAINING_LARGEST, TRAINING_RATIO, seed))
        for name, options in TRAININGS.items():
            config = Train.model_validate(
                {"stage": "train", "id": "s", "data": "d", "seed": seed, **STUDENT, **options}
            )
            logits = _trained_logits(config, dataset, test)
            scores[name].append(_scores(logits, test.labels, dataset.labels))
            print(seed, name, scores[name][-1], flush=True)
    return _summary(scores)


def _trained_logits(config: Train, dataset: Dataset, test: Dataset) -> Floats:
    assert config.model is not None
    start = create_model(config.model, len(dataset.classes), config.image_size, seed=config.seed)
    streams = sampled([labelled_stream(dataset)], config.sampling)
    objective = label_objective(len(dataset.classes), label_loss=label_loss(config, streams))
    learner = ClassifierLearner(start.module, objective, start.preprocess)
    setup = TrainingSetup(start, learner, dataset.classes, streams)
    with tempfile.TemporaryDirectory() as folder:
        trained, _ = setup.train(config, Context(work=Path(folder), workers=0), Path(folder))
    return outputs_of(trained.module, test, trained.preprocess, torch.device("cpu")).numpy().astype(np.float64)


def _scores(logits: Floats, test_labels: Labels, train_labels: Labels | None) -> Json:
    assert train_labels is not None
    predicted = logits.argmax(1)
    wanted, there = (np.bincount(labels, minlength=logits.shape[1]) for labels in (train_labels, test_labels))
    return {
        "balanced_accuracy": float(balanced_accuracy_score(test_labels, predicted)),
        "top1": float(accuracy_score(test_labels, predicted, sample_weight=(wanted / there)[test_labels])),
        "worst_recall": float(recall_score(test_labels, predicted, average=None).min()),
    }


def _summary(scores: Mapping[str, list[Json]]) -> Json:
    """For each correction, each measure's mean with its interval and the raw values, and the gain over none."""
    summary: Json = {}
    for name, some in scores.items():
        summary[name] = {}
        for measure in some[0]:
            values, before = (np.array([row[measure] for row in rows]) for rows in (some, scores["none"]))
            summary[name][measure] = {**mean_interval(values), "raw": values.round(4).tolist()}
            if name != "none":
                summary[name][measure]["gain"] = mean_interval(values - before)
    return summary


def _features(
    data: tuple[Dataset, Dataset], side: int, model_args: dict[str, Any], asked: argparse.Namespace
) -> Images:
    built = create_model(MODEL, 1000, side, model_args)
    built.module.load_state_dict(state_dict(asked.weights))
    model = FrozenModel(built.module, built.preprocess, torch.device("cpu"), asked.runs / ".store" / "cache")
    train, test = (model.embeddings(dataset).numpy().astype(np.float64) for dataset in data)
    assert data[0].labels is not None
    assert data[1].labels is not None
    return Images(train, data[0].labels, test, data[1].labels)


def _cifar(folder: Path, images: Mapping[str, int]) -> tuple[Dataset, Dataset]:
    """The first training images of each class, and the first test images."""
    config = Cifar.model_validate({"source": "cifar10", "path": str(folder.absolute())})
    train, test = _opened(config)
    assert train.labels is not None
    first = [np.flatnonzero(train.labels == label)[: images["train"] // 10] for label in range(10)]
    return train.subset(np.sort(np.concatenate(first))), test.subset(np.arange(images["test"]))


def _grocery(folder: Path) -> tuple[Dataset, Dataset]:
    """The classes with LARGEST training images or more, numbered anew."""
    config = ImageFolder.model_validate({"source": "image_folder", "path": str(folder.absolute()), "classes": "leaf"})
    train, test = _opened(config)
    assert train.labels is not None
    kept = np.flatnonzero(np.bincount(train.labels) >= LARGEST["Grocery"])
    return _of_classes(train, kept), _of_classes(test, kept)


def _of_classes(dataset: Dataset, kept: Indices) -> Dataset:
    assert dataset.labels is not None
    some = dataset.subset(np.flatnonzero(np.isin(dataset.labels, kept)))
    names = tuple(dataset.classes[label] for label in kept)
    assert some.labels is not None
    return Dataset(some.name, names, some.sample_ids, np.searchsorted(kept, some.labels), some.images, some.indices)


def _opened(config: Cifar | ImageFolder) -> tuple[Dataset, Dataset]:
    made = dataset_artifacts({"data": config}, Path(), ["data.train", "data.test"])
    return open_dataset(made["data.train"]), open_dataset(made["data.test"])


def _parts_before() -> Json:
    """The parts that an earlier run measured, so that heads and training may be measured apart."""
    file = RESULTS / "unbalanced_classes.json"
    before = json.loads(file.read_text()) if file.is_file() else {}
    return {name: before[name] for name in ("heads", "training") if name in before}


if __name__ == "__main__":
    main()
