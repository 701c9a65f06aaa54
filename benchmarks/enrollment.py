"""Classes added to a bundle from five images: how long it takes, and whether what enroll.py says of them is true.

    python -m benchmarks.enrollment seconds CIFAR ELSEWHERE WEIGHTS [--rounds 7] [--runs runs]
    python -m benchmarks.enrollment rates GROCERY CIFAR WEIGHTS [--draws 40] [--runs runs]

`seconds`: CIFAR, ELSEWHERE and WEIGHTS are as for cifar10_students.py; with the same --runs its body b is found there.
The bundle gets an embedding and CIFAR-10's 10 classes of 5 images. Then its own enroll.py, a process of its own each
time, learns the first class of ELSEWHERE from 5 images, and forgets it again.

`rates`: some classes are bundled with 5 images each, one is enrolled with 5, the others stay unknown; drawn anew each
time. What the shipped prototypes.py says before and after is held against the truth on test images that nothing else
saw. Three data sets: scikit-learn's digits, whose embedding is a perceptron's hidden layer, trained each time on the
bundled classes, the support among its training images; GROCERY (the Grocery Store Dataset's folder) and CIFAR
(cifar-10-batches-py, 300 images a class), whose embedding is MobileNetV2's of ImageNet (WEIGHTS: its .npz), frozen.
Grocery's own test photos were taken elsewhere than the others: with them it is seen what the intervals do not cover.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

from benchmarks.cifar10_exercise import RECIPE, parser_for, settings_of
from benchmarks.common import RESULTS, conditions, spread
from benchmarks.draws import parser_of_draws
from benchmarks.imagenet_mobilenetv2 import BICUBIC_ARGS, MODEL, MODEL_ARGS, state_dict
from edgevit import pipeline
from edgevit.bundling.prototypes import Share, SupportSet, accuracy_of, head_of, rates
from edgevit.cli.output import terminal_context
from edgevit.configs import Bundle, Cifar, Export, Quantize
from edgevit.data.preprocess import open_image, preprocess
from edgevit.data.roles import read_source
from edgevit.inference.frozen_model import fast_forward
from edgevit.models import create_model
from edgevit.recipe import load_recipe

SHOTS, NAME = 5, "another"
UNSEEN_IMAGES, UNKNOWN_IMAGES = 10, 40  # of each class; in all
MANY = 10**9
Floats = NDArray[np.float32]
Labels = NDArray[np.int64]


class World(NamedTuple):
    """Embeddings (n, dimensions) and labels (n,) of a data set, and which images are for tests.

    `learned` are the images that the embedding was trained on; `classes` are those bundled, then the one to enrol, then
    the unknown ones.
    """

    embeddings: Floats
    labels: Labels
    tests: NDArray[np.bool_]
    learned: NDArray[np.bool_]
    classes: list[int]
    bundled: int


def main() -> None:
    kind, *rest = sys.argv[1:] or [""]
    sys.argv[1:] = rest
    if kind not in ("seconds", "rates"):
        sys.exit(__doc__)
    made = {"seconds": seconds, "rates": all_rates}[kind]()
    file = RESULTS / "enrollment.json"
    before = json.loads(file.read_text()) if file.is_file() else {}
    text = json.dumps({**before, kind: {"conditions": conditions(), **made}}, indent=1)
    text = re.sub(r"\[[^][{}]*\]", lambda row: " ".join(row[0].split()), text)  # a row of numbers a line
    file.write_text(text + "\n")
    print(text)


# How long it takes ---------------------------------------------------------------------------------------------


def seconds() -> dict[str, Any]:
    """Seconds of enroll.py, and of the adaptation that it stands in for."""
    parser = parser_for(__doc__ or "", draws=1, with_small=False)
    parser.add_argument("--rounds", type=int, default=7)
    asked = parser.parse_args()
    recipe = load_recipe(RECIPE, settings_of(asked))
    stages: list[Any] = [stage for stage in recipe.stages if stage.id in ("imagenet", "body/b", "head/b")]
    stages += [
        Export(stage="export", id="onnx", model="head/b", embedding=True),
        Quantize(stage="quantize", id="int8", model="onnx", calibration="cifar.pool"),
        Bundle(stage="bundle", id="bundle", model="int8", support="cifar.support"),
    ]
    chosen = recipe.model_copy(update={"name": "enrollment", "stages": tuple(stages)})
    made = pipeline.run(chosen, RECIPE.parent, asked.runs, terminal_context())
    with TemporaryDirectory() as folder:
        bundle, images = Path(folder) / "bundle", _image_files(asked.elsewhere, Path(folder))
        shutil.copytree(made["bundle"].path, bundle)
        enroll = [sys.executable, str(bundle / "enroll.py")]
        enrolled, removed = [], []
        for _ in range(asked.rounds):
            enrolled.append(_seconds([*enroll, "--class", NAME, *images]))
            removed.append(_seconds([*enroll, "--remove", NAME]))
    adapted = made["head/b"].manifest.provenance["seconds"]
    return {"enrol_s": spread(enrolled), "remove_s": spread(removed), "adapt_to_50_images_s": adapted}


def _image_files(elsewhere: Path, folder: Path) -> list[str]:
    with np.load(elsewhere) as arrays:
        labels = arrays["train_labels"]
        images = arrays["train_images"][labels == labels.min()][:SHOTS]
    files = [folder / f"{index}.png" for index in range(SHOTS)]
    for image, file in zip(images, files, strict=True):
        Image.fromarray(image).save(file)
    return [str(file) for file in files]


def _seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


# Whether it is true ---------------------------------------------------------------------------------------------


def all_rates() -> dict[str, Any]:
    """Claims beside truths, of each data set and each kind of bundle."""
    asked = parser_of_draws(__doc__, "grocery", "cifar", "weights", draws=40).parse_args()
    photos, cifar = _grocery(asked), _cifar(asked)
    worlds: dict[str, Callable[[int], World]] = {
        "digits": _digits,
        "grocery": lambda draw: _world_of(_mixed(photos, draw), draw, bundled=10),
        "grocery, its own test photos": lambda draw: _world_of(photos, draw, bundled=10),
        "cifar10": lambda draw: _world_of(cifar, draw, bundled=6),
    }
    figures: dict[str, Any] = {}
    for name, world in worlds.items():
        for with_unseen in (False, True):
            draws = [dict(_claims(world(draw), draw, with_unseen)) for draw in range(asked.draws)]
            figures[f"{name}, {'unseen images given' if with_unseen else 'support alone'}"] = _summary(draws)
    return {"draws": asked.draws, "shots": SHOTS, "figures": figures}


def _claims(world: World, draw: int, with_unseen: bool) -> Iterator[tuple[str, tuple[Share | None, float]]]:
    """What is said, and what is true, by the name of the figure."""
    generator = np.random.default_rng(draw)
    known, new, unknown = (
        world.classes[: world.bundled],
        world.classes[world.bundled],
        world.classes[world.bundled + 1 :],
    )
    support = _images(world, generator, known, SHOTS, world.learned if world.learned.any() else ~world.tests)
    seen = np.isin(np.arange(len(world.labels)), support)
    unseen = _images(world, generator, known, UNSEEN_IMAGES, ~world.tests & ~world.learned & ~seen)
    others = generator.permutation(np.flatnonzero(np.isin(world.labels, unknown) & ~world.tests))[:UNKNOWN_IMAGES]
    before = SupportSet.as_bundled(
        tuple(map(str, known)),
        world.embeddings[support],
        _indices(world.labels[support], known),
        "0" * 64,
        learned=bool(world.learned.any()),
        unseen=(world.embeddings[unseen], _indices(world.labels[unseen], known)) if with_unseen else None,
        unknown=world.embeddings[others],
    )
    after = before.with_images(str(new), world.embeddings[_images(world, generator, [new], SHOTS, ~world.tests)])
    for moment, classes, made in (("before", known, before), ("after", [*known, new], after)):
        said, truth = rates(made), _truth(made, world, classes, unknown)
        for name in ("accuracy", "known_rejected", "unknown_accepted"):
            yield f"{name} {moment}", (getattr(said, name), truth[name])
    yield (
        "accuracy of the new class",
        (accuracy_of(after, str(new)), _truth(after, world, [*known, new], unknown)["new"]),
    )


def _truth(made: SupportSet, world: World, classes: list[int], unknown: list[int]) -> dict[str, float]:
    """The figures on the test images; each class counts alike."""
    head = head_of(made)
    by_class = []
    for index, label in enumerate(classes):
        cosines = head.cosines(world.embeddings[world.tests & (world.labels == label)])
        by_class.append(((cosines.argmax(1) == index).mean(), (cosines.max(1) < head.threshold).mean()))
    accuracy, rejected = np.mean(by_class, axis=0)
    others = head.cosines(world.embeddings[world.tests & np.isin(world.labels, unknown)]).max(1)
    accepted = (others >= head.threshold).mean()
    return {
        "accuracy": float(accuracy),
        "known_rejected": float(rejected),
        "unknown_accepted": float(accepted),
        "new": float(by_class[-1][0]),
    }


def _summary(draws: list[dict[str, tuple[Share | None, float]]]) -> dict[str, Any]:
    """Of each figure: means of claim and truth, and how often the interval that is said holds the truth."""
    figures = {}
    for name in draws[0]:
        pairs = [(share, truth) for share, truth in (draw[name] for draw in draws) if share is not None]
        figures[name] = {
            "said": float(np.mean([share.value for share, _ in pairs])),
            "true": float(np.mean([truth for _, truth in pairs])),
            "interval_holds_truth": float(np.mean([share.low <= truth <= share.high for share, truth in pairs])),
            "optimistic": any(share.optimistic for share, _ in pairs),
            "raw": [
                [round(number, 4) for number in (share.value, share.low, share.high, truth)] for share, truth in pairs
            ],
        }
    return figures


def _images(
    world: World, generator: np.random.Generator, classes: list[int], count: int, among: NDArray[np.bool_]
) -> Labels:
    """The places of `count` images of each class."""
    places = [generator.permutation(np.flatnonzero(among & (world.labels == label)))[:count] for label in classes]
    return np.concatenate(places)


def _indices(labels: Labels, classes: list[int]) -> Labels:
    return np.array([classes.index(label) for label in labels.tolist()], np.int64)


def _digits(draw: int) -> World:
    digits = load_digits()
    generator = np.random.default_rng(draw)
    pixels, labels = (digits.data / 16).astype(np.float32), digits.target.astype(np.int64)
    classes, order = generator.permutation(10).tolist(), generator.permutation(len(labels))
    tests, training = np.zeros(len(labels), np.bool_), np.zeros(len(labels), np.bool_)
    tests[order[:800]] = True
    training[order[800:1500]] = True
    training &= np.isin(labels, classes[:7])
    fitted = MLPClassifier((64,), random_state=draw, learning_rate_init=0.01, max_iter=1000, tol=1e-3)
    fitted.fit(pixels[training], labels[training])
    hidden = np.maximum(pixels @ fitted.coefs_[0] + fitted.intercepts_[0], 0).astype(np.float32)
    return World(hidden, labels, tests, training, classes, bundled=7)


def _mixed(data: tuple[Floats, Labels, NDArray[np.bool_]], draw: int) -> tuple[Floats, Labels, NDArray[np.bool_]]:
    """Half of the images, drawn at random, are for tests: all images are of one kind."""
    embeddings, labels, tests = data
    return embeddings, labels, np.random.default_rng(draw).permutation(len(tests)) % 2 == 0


def _world_of(data: tuple[Floats, Labels, NDArray[np.bool_]], draw: int, bundled: int) -> World:
    classes = np.random.default_rng(draw).permutation(np.unique(data[1])).tolist()
    return World(*data, np.zeros(len(data[1]), np.bool_), classes, bundled)


def _grocery(asked: argparse.Namespace) -> tuple[Floats, Labels, NDArray[np.bool_]]:
    rows = [
        (split == "test", *line.split(","))
        for split in ("train", "test")
        for line in (asked.grocery / f"{split}.txt").read_text().splitlines()
        if line
    ]
    images = (open_image(asked.grocery / row[1].strip()) for row in rows)
    embeddings = _embedded("grocery", images, len(rows), 224, MODEL_ARGS, asked)
    return embeddings, np.array([int(row[2]) for row in rows]), np.array([row[0] for row in rows])


def _cifar(asked: argparse.Namespace) -> tuple[Floats, Labels, NDArray[np.bool_]]:
    source = read_source("cifar", Cifar.model_validate({"source": "cifar10", "path": str(asked.cifar)}), Path())
    tests = np.array([split == "test" for split in source.splits])
    labels = np.asarray(source.labels)
    places = [
        np.flatnonzero((tests == part) & (labels == label))[:150] for part in (False, True) for label in range(10)
    ]
    chosen = np.concatenate(places)
    stored = source.images
    images = (stored.decoded(stored.content(index), index) for index in chosen.tolist())
    return _embedded("cifar10", images, len(chosen), 96, BICUBIC_ARGS, asked), labels[chosen], tests[chosen]


@torch.no_grad()
def _embedded(
    name: str, images: Iterator[Any], count: int, side: int, model_args: dict[str, Any], asked: argparse.Namespace
) -> Floats:
    """MobileNetV2's embeddings, kept in --runs."""
    asked.runs.mkdir(parents=True, exist_ok=True)
    file: Path = asked.runs / f"enrollment-{name}.npy"
    if not file.is_file():
        built = create_model(MODEL, 1000, side, model_args=model_args)
        built.module.load_state_dict(state_dict(asked.weights))
        forward = fast_forward(built.module, built.preprocess, torch.device("cpu"), MANY, embedding=True)
        rule = built.preprocess.model_dump()
        rows = [forward(torch.from_numpy(preprocess(image, **rule))[None]).numpy()[0] for image in images]
        assert len(rows) == count
        np.save(file, np.stack(rows))
    return np.asarray(np.load(file), np.float32)


if __name__ == "__main__":
    main()
