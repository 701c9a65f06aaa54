"""Seconds to teach a bundle a class from five images, on the INT8 student of the exercise, as a board would do it.

    python -m benchmarks.enrolment CIFAR ELSEWHERE WEIGHTS [--rounds 7] [--runs runs]

CIFAR, ELSEWHERE and WEIGHTS are as for cifar10_students.py; with the same --runs its body b is found there. The bundle
gets an embedding and CIFAR-10's 10 classes of 5 images. Then its own enroll.py, a process of its own each time, learns
the first class of ELSEWHERE from 5 pictures, and forgets it again.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.cifar10_exercise import RECIPE, parser_for, settings_of
from benchmarks.common import publish, spread
from edgevit import pipeline
from edgevit.cli.output import terminal_context
from edgevit.configs import Bundle, Export, Quantize
from edgevit.recipe import load_recipe

SHOTS, NAME = 5, "another"


def main() -> None:
    parser = parser_for(__doc__, draws=1)
    parser.add_argument("--rounds", type=int, default=7)
    asked = parser.parse_args()
    recipe = load_recipe(RECIPE, settings_of(asked))
    stages: list[Any] = [stage for stage in recipe.stages if stage.id in ("imagenet", "body/b", "head/b")]
    stages += [
        Export(stage="export", id="onnx", model="head/b", embedding=True),
        Quantize(stage="quantize", id="int8", model="onnx", calibration="cifar.pool"),
        Bundle(stage="bundle", id="bundle", model="int8", support="cifar.support"),
    ]
    chosen = recipe.model_copy(update={"name": "enrolment", "stages": tuple(stages)})
    made = pipeline.run(chosen, RECIPE.parent, asked.runs, terminal_context())
    with TemporaryDirectory() as folder:
        bundle, pictures = Path(folder) / "bundle", _pictures(asked.elsewhere, Path(folder))
        shutil.copytree(made["bundle"].path, bundle)
        enroll = [sys.executable, str(bundle / "enroll.py")]
        enrolled, removed = [], []
        for _ in range(asked.rounds):
            enrolled.append(_seconds([*enroll, "--class", NAME, *pictures]))
            removed.append(_seconds([*enroll, "--remove", NAME]))
    adapted = made["head/b"].manifest.provenance["seconds"]
    publish("enrolment", {"enrol_s": spread(enrolled), "remove_s": spread(removed), "adapt_to_50_images_s": adapted})


def _pictures(elsewhere: Path, folder: Path) -> list[str]:
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


if __name__ == "__main__":
    main()
