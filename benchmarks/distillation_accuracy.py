"""Every method of recipes/methods.yaml on CIFAR-10: the same student, views and number of images, several seeds.

    python -m benchmarks.distillation_accuracy CIFAR WEIGHTS [--seeds 3] [--per-class 100] [--epochs 20] [--methods …]

CIFAR is a folder with cifar-10-batches-py. WEIGHTS is cifar10_resnet20-12fca82f.th (akamaster/pytorch_resnet_cifar10,
91.7%): the teacher, which has seen all labels of the training images; students see `per-class` of them, and label-free
and pseudo-labels the other training images without their labels. Every student is shown as many images (pseudo-labels
up to 6% fewer). The default is the scale of two CPU cores, about an hour; a run that was stopped goes on. Methods may
be run side by side, in processes with the same --runs: a last run of all collects what they made.

For each method and seed: top-1 on the 10,000 test images, and the mean over corruptions on 200 of them; the difference
to the student without a teacher, paired by seed (same weights at the start, same views in the same order).
"""

from __future__ import annotations

import argparse
import os
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ruamel.yaml import YAML

import benchmarks.cifar_resnet  # noqa: F401 - registers the teacher with timm
from benchmarks.common import ROOT, publish
from edgevit import pipeline
from edgevit.artifacts import Artifact
from edgevit.cli.output import terminal_context
from edgevit.fewshot.episodes import mean_interval
from edgevit.recipe import load_recipe

METHODS = ROOT / "recipes" / "methods.yaml"
EPOCHS = 20  # other numbers have results of their own
STUDENT = {
    "model": "deit_tiny_distilled_patch16_224",
    "model_args": {"patch_size": 4, "embed_dim": 96, "depth": 4, "num_heads": 3},
    "image_size": 32,
    "batch_size": 50,
    "learning_rate": 1e-3,
    "warmup_fraction": 0.1,
}
AUGMENTATION = {"scale": [0.6, 1], "horizontal_flip": 0.5}
PSEUDO_LABEL_EPOCHS = 2  # each image of the pool is looked at so often, at most
KEPT = ("objectives", "distillation_token", "teacher_cache")  # of a method, as the recipe has them


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cifar", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--per-class", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--methods", nargs="*", help="by their ids in the recipe; all by default", metavar="METHOD")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    asked = parser.parse_args()
    recipe_file = asked.runs / f"distillation-accuracy-{os.getpid()}.yaml"
    recipe_file.parent.mkdir(parents=True, exist_ok=True)
    recipe = _recipe(asked)
    with recipe_file.open("w") as file:
        YAML().dump(recipe, file)
    torch.set_num_threads(asked.threads)
    loaded = load_recipe(recipe_file)
    done = pipeline.run(loaded, recipe_file.parent, asked.runs, terminal_context())
    rows = [_row(done, stage.id) for stage in loaded.stages if stage.id.startswith("accuracy/seed")]
    publish(
        "distillation_accuracy" if asked.epochs == EPOCHS else f"distillation_accuracy_{asked.epochs}_epochs",
        {
            "images_per_class": asked.per_class,
            "epochs": asked.epochs,
            "student": STUDENT,
            "teacher_top1": done["accuracy/teacher"].metrics["top1"],
            "teacher_corrupted_top1": done["shifted/teacher"].metrics["corrupted_top1"],
            "rows": rows,
            "hard_seed0_in_int8": _figures(done, "hard/int8") if "accuracy/hard/int8" in done else None,
            "methods": {
                method: _summary(rows, method, asked.seeds) for method in dict.fromkeys(row["method"] for row in rows)
            },
        },
    )


def _recipe(asked: argparse.Namespace) -> dict[str, Any]:
    students = [stage for stage in load_recipe(METHODS).stages if stage.id.startswith("student/")]
    methods = {stage.id.removeprefix("student/"): stage for stage in students}
    chosen = asked.methods or list(methods)
    stages: list[dict[str, Any]] = [
        {
            "stage": "load",
            "id": "teacher",
            "model": "cifar_resnet20",
            "weights": str(asked.weights.absolute()),
            "classes_of": "cifar.support",
        },
        *_measured("teacher", "teacher"),
    ]
    if "pseudo-labels" in chosen:
        guess = {"stage": "pseudo_label", "id": "guessed", "teacher": "teacher", "data": "cifar.pool"}
        stages.append({**guess, "most_per_class": asked.per_class * asked.epochs // PSEUDO_LABEL_EPOCHS})
    for seed in range(asked.seeds):
        for method in chosen:
            name = f"seed{seed}/{method}"
            stages.append(_student(methods[method].model_dump(mode="json"), name, seed, asked.epochs))
            stages += _measured(f"student/{name}", name)
    if "hard" in chosen:
        stages += [
            {"stage": "export", "id": "onnx", "model": "student/seed0/hard"},
            {"stage": "quantize", "id": "int8", "model": "onnx", "calibration": "cifar.support"},
            *_measured("int8", "hard/int8"),
        ]
    data = {"source": "cifar10", "path": str(asked.cifar.absolute()), "few_shot": {"shots": asked.per_class, "draw": 0}}
    return {"name": "distillation-accuracy", "datasets": {"cifar": data}, "stages": stages}


def _student(method: dict[str, Any], name: str, seed: int, epochs: int) -> dict[str, Any]:
    mixup = method["augmentation"]["mixup"]
    fields = {**STUDENT, "stage": method["stage"], "id": f"student/{name}", "seed": seed, "epochs": epochs}
    fields["augmentation"] = {**AUGMENTATION, "mixup": mixup}
    if method["stage"] == "train":
        guessed = {"data": "guessed", "epochs": PSEUDO_LABEL_EPOCHS}
        return {**fields, **(guessed if method["data"] == "guessed" else {"data": "cifar.support"})}
    fields |= {"teacher": "teacher", **{key: method[key] for key in KEPT}}
    if len(method["streams"]) == 1:
        return {**fields, "streams": [{"data": "cifar.support"}]}
    share = method["streams"][0]["share"]
    streams = [{"data": "cifar.support", "share": share}, {"data": "cifar.pool", "share": 1 - share}]
    return {**fields, "streams": streams, "epochs": round(epochs * share)}  # as many images as the others


def _measured(model: str, name: str) -> list[dict[str, Any]]:
    clean = {"stage": "evaluate", "id": f"accuracy/{name}", "model": model, "data": "cifar.test", "batch_size": 100}
    shifted = {"protocol": "corruptions", "severities": [1, 3, 5], "max_images": 200}
    return [clean, {**clean, "id": f"shifted/{name}", **shifted}]


def _figures(done: dict[str, Artifact], name: str) -> dict[str, float]:
    return {
        "top1": done[f"accuracy/{name}"].metrics["top1"]["value"],
        "corrupted_top1": done[f"shifted/{name}"].metrics["corrupted_top1"]["value"],
    }


def _row(done: dict[str, Artifact], stage_id: str) -> dict[str, Any]:
    name = stage_id.removeprefix("accuracy/")
    seed, method = name.split("/", 1)
    made = done[f"student/{name}"].manifest
    return {
        "method": method,
        "seed": int(seed.removeprefix("seed")),
        **_figures(done, name),
        "teacher_top1_in_training": made.provenance.get("teacher_top1_in_training"),
        "seconds": made.provenance["seconds"],
    }


def _summary(rows: list[dict[str, Any]], method: str, seeds: int) -> dict[str, Any]:
    of = {(row["method"], row["seed"]): row for row in rows}
    figures: dict[str, Any] = {}
    for figure in ("top1", "corrupted_top1"):
        values = [of[method, seed][figure] for seed in range(seeds)]
        figures[figure] = {"mean": statistics.mean(values), "min": min(values), "max": max(values)}
        if ("scratch", 0) not in of:
            continue
        gains = [100 * (of[method, seed][figure] - of["scratch", seed][figure]) for seed in range(seeds)]
        figures[f"{figure}_points_above_scratch"] = {**mean_interval(np.array(gains)), "raw": gains}
    return figures


if __name__ == "__main__":
    main()
