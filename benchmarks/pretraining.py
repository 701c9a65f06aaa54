"""Pre-training methods at equal compute: kNN and linear accuracy on frozen features, against no training and labels.

    python -m benchmarks.pretraining CIFAR [--backbone NAME ...] [--seeds 3] [--images 5000] [--runs runs]

CIFAR is the folder that holds `cifar-10-batches-py`. Each method trains a small ViT and, where it can, a hybrid of
convolutions and attention (CoAtNet) on the same training images without labels. Compute is counted in passes of an
image, forward and backward, through the backbone: a teacher's pass counts a third, smaller views and visible patches
count by their area. Heads are not counted; `cpu_s` holds the CPU seconds of a run. The epochs of a method are rounded
to about as many passes as the others have (`passes`). The features are then frozen. The heads of `evaluate` (protocols
`knn` and `linear`) learn from the same training images, now with labels, and are tested on test images. `untrained` is
the same backbone with its initial weights; `supervised` trains it with the labels. DINO on the ViT without centering,
and with the student itself as teacher, shows whether it collapses.

The script goes on where it was interrupted: the result of each run is kept in RUNS, its `cpu_s` since the last start.
Several processes may share RUNS: --seed runs one seed and publishes nothing. When all seeds are done, run without it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from benchmarks.common import models_before, publish
from benchmarks.draws import paired, summary
from edgevit.artifacts import Preprocess, sha256_of
from edgevit.configs import Cifar, Pretrain, Train, Training
from edgevit.context import Context
from edgevit.data import dataset_artifacts, open_dataset
from edgevit.data.dataset import Dataset
from edgevit.data.transforms import normalize
from edgevit.errors import RecipeError, TrainingError
from edgevit.fewshot.probes import linear_probe, nearest_neighbors_probe
from edgevit.models.creation import BuiltModel, create_model
from edgevit.progress import SilentProgress
from edgevit.training.classifier_learner import ClassifierLearner
from edgevit.training.loop.batches import TrainingStream
from edgevit.training.loop.fit import fit
from edgevit.training.loop.learner import Learner
from edgevit.training.loop.metrics_log import METRICS
from edgevit.training.objectives import label_objective
from edgevit.training.ssl.feature_maps import features_of
from edgevit.training.ssl.learners import learner_for
from edgevit.training.ssl.setup import let_views_vary
from edgevit.training.ssl.view_sizes import let_size_vary

SIDE, BATCH, LEARNING_RATE, TESTED = 32, 64, 1e-3, 2_000
NEIGHBORS, TEMPERATURE = 20, 0.07  # of the kNN classifier, as in DINO's evaluation


class Backbone(NamedTuple):
    """A model of timm's, and the passes of an image that each method gets."""

    model: str
    model_args: dict[str, Any]
    passes: int


BACKBONES = {
    "ViT": Backbone("vit_tiny_patch16_224", {"patch_size": 4, "embed_dim": 64, "depth": 3, "num_heads": 2}, 20),
    "hybrid": Backbone("coatnet_1m", {}, 20),
}
LOCAL_VIEWS = [{"count": 2, "scale": (0.4, 1)}, {"count": 4, "size": 16, "scale": (0.05, 0.4)}]


@dataclass(frozen=True)
class Method:
    """A method as it is run.

    Attributes:
        passes: of one image in one epoch, forward and backward through the backbone.
    """

    passes: float
    options: dict[str, Any] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)


# At 1e-3 the answers of DINO fall into one in the first steps.
SELF_DISTILLED = Method(2 + 4 / 4 + 2 / 3, {"prototypes": 1024}, {"views": LOCAL_VIEWS, "learning_rate": 3e-4})
# The hybrid takes images of one size: it has whole views alone.
SELF_DISTILLED_HYBRID = replace(
    SELF_DISTILLED, passes=2 + 2 / 3, fields={**SELF_DISTILLED.fields, "views": [{"count": 2, "scale": (0.3, 1)}]}
)
METHODS = {
    "dino": SELF_DISTILLED,
    "esvit": SELF_DISTILLED,
    "simclr": Method(2),
    "moco": Method(1 + 1 / 3, {"queue": 512}),
    # Four tiles of 16 px are one image. At 1e-3 it learns less (one seed, other training images as test).
    "pirl": Method(2, {"negatives": 512, "grid": 2}, {"learning_rate": 3e-4}),
    "byol": Method(2 + 2 / 3),
    "mae": Method(0.25 + 0.5, {"decoder_width": 64, "decoder_depth": 1}),  # a quarter of the patches, and the decoder
    "fcmae": Method(1),
    "sit": Method(2),
    "rotation": Method(4),
    "jigsaw": Method(1, {"grid": 2, "permutations": 24}),
}
ABLATIONS = {  # of DINO on the ViT, as in its paper
    "dino without centering": {"center_momentum": 1},
    "dino without a momentum teacher": {"momentum": 0},
}
METHODS_OF = {
    "ViT": {
        **METHODS,
        **{
            name: replace(SELF_DISTILLED, options={**SELF_DISTILLED.options, **change})
            for name, change in ABLATIONS.items()
        },
    },
    "hybrid": {**METHODS, "dino": SELF_DISTILLED_HYBRID, "esvit": SELF_DISTILLED_HYBRID},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cifar", type=Path)
    parser.add_argument("--backbone", nargs="+", choices=list(BACKBONES), default=list(BACKBONES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=5_000)
    parser.add_argument("--seed", type=int, help="run this one and publish nothing")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    data = Data(asked.cifar, asked.images)
    seeds = range(asked.seeds) if asked.seed is None else [asked.seed]
    results = {
        backbone: {
            name: [kept(asked.runs, backbone, name, seed, data) for seed in seeds]
            for name in ("untrained", "supervised", *METHODS_OF[backbone])
        }
        for backbone in asked.backbone
    }
    if asked.seed is not None:
        return
    publish(
        "pretraining",
        {
            "test_images": TESTED,
            "side_px": SIDE,
            "neighbors": NEIGHBORS,
            "backbones": {
                **models_before("pretraining", "backbones"),
                **{
                    backbone: {
                        "images": asked.images,
                        **BACKBONES[backbone]._asdict(),
                        "methods": dict(table(backbone, runs)),
                    }
                    for backbone, runs in results.items()
                },
            },
        },
    )


class Data:
    """The training images, without and with labels, and the test images of CIFAR-10."""

    def __init__(self, folder: Path, images: int) -> None:
        config = Cifar.model_validate({"source": "cifar10", "path": str(folder.absolute())})
        made = dataset_artifacts({"cifar": config}, Path(), ["cifar.train", "cifar.test"])
        self.train = open_dataset(made["cifar.train"]).sample(images, seed=0)
        self.test = open_dataset(made["cifar.test"]).sample(TESTED, seed=0)


def kept(runs: Path, backbone: str, name: str, seed: int, data: Data) -> dict[str, Any]:
    """The result of a run, from its file if it was finished before with the same settings."""
    folder = runs / f"pretraining-{len(data.train)}-{BACKBONES[backbone].passes}"
    file = folder / f"{backbone} {name} {seed}.json"
    settings = settings_of(backbone, name, seed)
    before: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    if before.get("settings") == settings:
        return before
    start = time.process_time()
    work = folder / f"{backbone} {name} {seed}-{sha256_of(settings)[:8]}"
    result = {"settings": settings, **measured(work, backbone, name, seed, data)}
    result["cpu_s"] = round(time.process_time() - start, 1)
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(result))
    print(backbone, name, seed, result, flush=True)
    return result


def settings_of(backbone: str, name: str, seed: int) -> dict[str, Any]:
    """What a run depends on, beside the images."""
    model, args, _ = BACKBONES[backbone]
    settings: dict[str, Any] = {"model": model, "model_args": args, "seed": seed}
    if name == "untrained":
        return settings
    config = stage_of(backbone, name, seed)
    return {
        **settings,
        "stage": config.model_dump(mode="json", exclude_unset=True),
        "stage_version": config.version,
    }


def measured(work: Path, backbone: str, name: str, seed: int, data: Data) -> dict[str, Any]:
    """Train a backbone and measure its features. {"refused": …} if the method cannot use it."""
    model, args, _ = BACKBONES[backbone]
    start = create_model(model, len(data.train.classes) if name == "supervised" else 1, SIDE, args, seed=seed)
    if name == "untrained":
        return accuracies(start.module, start.preprocess, data)
    config = stage_of(backbone, name, seed)
    try:
        learner = learner_of(config, start, data)
    except RecipeError as error:
        return {"refused": str(error).splitlines()[0]}
    stream = TrainingStream(data.train, labelled=name == "supervised")
    context = Context(work=work, workers=0, stage_id=name, progress=SilentProgress())
    work.mkdir(parents=True, exist_ok=True)
    views = config.views if isinstance(config, Pretrain) else ()
    try:
        trained, _ = fit(learner, [stream], config, context, out=work, views=views)
    except TrainingError as error:
        rows = (work / METRICS).read_text(encoding="utf-8").splitlines()
        return {"stopped": str(error).splitlines()[0], "last_row": json.loads(rows[-1]) if rows else {}}
    let_size_vary(trained, False)
    last = json.loads((work / METRICS).read_text(encoding="utf-8").splitlines()[-1])
    return {**accuracies(trained, start.preprocess, data), "last_row": last}


def stage_of(backbone: str, name: str, seed: int) -> Training:
    """The stage that trains a backbone by a method, or with the labels."""
    shared = {
        "id": "body", "model": "m", "data": "d", "batch_size": BATCH, "learning_rate": LEARNING_RATE,
        "warmup_fraction": 0.1, "precision": "bfloat16", "seed": seed,
    }  # fmt: skip
    passes = BACKBONES[backbone].passes
    if name == "supervised":
        return Train.model_validate({"stage": "train", "epochs": passes, **shared})
    method = METHODS_OF[backbone][name]
    chosen = {"method": {"type": name.partition(" ")[0], **method.options}, **method.fields}
    return Pretrain.model_validate({"stage": "pretrain", "epochs": round(passes / method.passes), **shared, **chosen})


def learner_of(config: Training, start: BuiltModel, data: Data) -> Learner:
    """What a stage trains. Raises RecipeError if the method cannot use the backbone."""
    if not isinstance(config, Pretrain):
        return ClassifierLearner(start.module, label_objective(len(data.train.classes), 0.0), start.preprocess)
    let_views_vary(config, start)
    return learner_for(config, start, len(data.train))


def accuracies(model: nn.Module, preprocess: Preprocess, data: Data) -> dict[str, Any]:
    """The accuracy of kNN and of logistic regression on frozen features."""
    (train, labels), (test, truth) = (frozen(model, preprocess, role) for role in (data.train, data.test))
    probes = {"knn": nearest_neighbors_probe([NEIGHBORS], TEMPERATURE), "linear": linear_probe(seed=0)}
    return {
        name: float(np.mean(predicted == truth))
        for name, probe in probes.items()
        for predicted in probe(train, labels, test, len(data.train.classes)).values()
    }


@torch.no_grad()
def frozen(model: nn.Module, preprocess: Preprocess, data: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """The embeddings of plain images, and their labels."""
    assert data.labels is not None
    images = torch.from_numpy(np.stack([data.image(index) for index in range(len(data))]))
    embeddings = [features_of(model.eval(), normalize(part, preprocess)).embedding for part in images.split(BATCH)]
    return torch.cat(embeddings).double().numpy(), data.labels


def table(backbone: str, results: dict[str, list[dict[str, Any]]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """For each method: its stage, both accuracies of each seed, and the paired difference from no training."""
    for name, runs in results.items():
        row: dict[str, Any] = {"runs": [{key: run[key] for key in run if key != "settings"} for run in runs]}
        if name != "untrained":
            row["stage"] = runs[0]["settings"]["stage"]
            row["passes"] = row["stage"]["epochs"] * (1 if name == "supervised" else METHODS_OF[backbone][name].passes)
        if all("knn" in run for run in runs):
            for measure in ("knn", "linear"):
                reached, before = (summary([run[measure] for run in each]) for each in (runs, results["untrained"]))
                row[measure] = reached["mean"]
                row[f"{measure}_gain"] = paired(reached, before)
        yield name, row


if __name__ == "__main__":
    main()
