"""Images a second of distillation: edgevit, with and without the teacher's answers kept, and a plain loop over timm.

    python -m benchmarks.distillation_speed [--rounds 5] [--steps 40]

Same teacher (a ResNet-18), same student (a ViT of a fifth of its MACs), batch, images (embedded characters at 64 px),
augmentation (random crop and flip), loss (labels and softened KL), AdamW; one process, no loader workers; float32, and
bfloat16 by autocast. All take turns within each round. The plain loop is what timm's README shows: timm's transforms in
a DataLoader, `timm.task.LogitDistillationTask`, backward, step; it neither saves nor logs. `waiting` is the share of
edgevit's time that went by until a batch was there; without loader workers, that is the time to make it.
`same_precision` compares the two loops in bfloat16.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import timm.task
import torch
from PIL import Image
from timm.data import create_transform
from timm.optim import create_optimizer_v2
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.common import publish, spread
from edgevit.artifacts import IOSpec
from edgevit.configs import Augmentation, CrossEntropy, Glyphs, SoftDistillation, TeacherCache, Train
from edgevit.context import Context
from edgevit.data import Dataset, dataset_artifacts, open_dataset
from edgevit.inference.precision import Precision, autocast
from edgevit.models import BuiltModel, create_model
from edgevit.models.cost import macs_of
from edgevit.training.classifier_learner import ClassifierLearner
from edgevit.training.distillation.teacher_cache import CachedTeacher
from edgevit.training.distillation.teacher_from_config import FEWEST_VIEWS
from edgevit.training.distillation.teachers import LiveTeacher, Teacher
from edgevit.training.loop.batches import TrainingStream
from edgevit.training.loop.fit import fit
from edgevit.training.loop.metrics_log import METRICS
from edgevit.training.objectives import distillation_objective

SIZE, BATCH = 64, 64
STUDENT = {"patch_size": 8, "embed_dim": 96, "depth": 4, "num_heads": 3}
TERMS = (CrossEntropy(weight=0.5), SoftDistillation(weight=0.5, temperature=3.0))
SCALE, RATIO = (0.6, 1.0), (0.75, 4 / 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    asked = parser.parse_args()
    data = _characters(asked.steps)
    with tempfile.TemporaryDirectory() as folder:
        ways: dict[str, Callable[[int], Speed]] = {
            "timm": lambda round_: Speed(_plain_loop(data, "float32")),
            "timm, bfloat16": lambda round_: Speed(_plain_loop(data, "bfloat16")),
            "edgevit": lambda round_: _edgevit(data, asked.steps, Path(folder) / f"live{round_}", None),
            "edgevit, bfloat16": lambda round_: _edgevit(
                data, asked.steps, Path(folder) / f"bfloat16{round_}", None, "bfloat16"
            ),
            "edgevit, teacher cached": lambda round_: _edgevit(
                data, asked.steps, Path(folder) / f"cached{round_}", Path(folder) / "cache"
            ),
        }
        for run in ways.values():  # warm-up; it also fills the cache, as a first student does
            run(-1)
        rounds = [{name: run(round_) for name, run in ways.items()} for round_ in range(asked.rounds)]
    others = [name for name in ways if name != "timm"]
    ours = [name for name in others if name.startswith("edgevit")]
    publish(
        "distillation_speed",
        {
            "batch_size": BATCH,
            "steps": asked.steps,
            "image_size": SIZE,
            "macs": {
                "teacher": macs_of(_teacher(data).module, SIZE, SIZE),
                "student": macs_of(_student(data).module, SIZE, SIZE),
            },
            "images_per_s": {name: spread([speeds[name].images_per_s for speeds in rounds]) for name in ways},
            "over_timm": {
                name: spread([speeds[name].images_per_s / speeds["timm"].images_per_s for speeds in rounds])
                for name in others
            },
            "same_precision": spread(
                [speeds["edgevit, bfloat16"].images_per_s / speeds["timm, bfloat16"].images_per_s for speeds in rounds]
            ),
            "waiting": {name: spread([speeds[name].waiting for speeds in rounds]) for name in ours},
        },
    )


class Speed(NamedTuple):
    """Images a second, and the share of the time that went by waiting for batches, where that is known."""

    images_per_s: float
    waiting: float = float("nan")


def _characters(steps: int) -> Dataset:
    per_class = -(-steps * BATCH // 98)
    config = Glyphs(source="glyphs", samples_per_class=per_class, size=SIZE)
    return open_dataset(dataset_artifacts({"glyphs": config}, Path(), ["glyphs.train"])["glyphs.train"])


def _teacher(data: Dataset) -> BuiltModel:
    return create_model("resnet18", len(data.classes), SIZE)


def _student(data: Dataset) -> BuiltModel:
    return create_model("deit_tiny_patch16_224", len(data.classes), SIZE, STUDENT)


def _edgevit(data: Dataset, steps: int, folder: Path, cache: Path | None, precision: Precision = "float32") -> Speed:
    """Images a second of `fit`, from its call to its return, and what its log says of waiting."""
    folder.mkdir(parents=True)
    built, live = _student(data), _live(data, precision)
    teacher: Teacher = live
    if cache is not None:
        teacher = CachedTeacher(lambda: live, cache, {"benchmark": steps}, TeacherCache(), len(data.classes), BATCH)
    config = Train(
        stage="train",
        id="student",
        model="deit_tiny_patch16_224",
        data="glyphs.train",
        epochs=1,
        batch_size=BATCH,
        precision=precision,
        augmentation=Augmentation(scale=SCALE, ratio=RATIO),
    )
    start = time.perf_counter()
    fit(
        ClassifierLearner(built.module, distillation_objective(TERMS, teacher, len(data.classes)), built.preprocess),
        [TrainingStream(data)],
        config,
        Context(work=folder, workers=0),
        out=folder,
    )
    seconds = time.perf_counter() - start
    return Speed(-(-len(data) // BATCH) * BATCH / seconds, _waiting(folder / METRICS))


def _waiting(metrics: Path) -> float:
    """The mean over a training's time of the share that each row of its log gives."""
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    steps = np.diff([0, *(row["step"] for row in rows)])
    return float(np.average([row["waiting"] for row in rows], weights=steps / [row["images_per_s"] for row in rows]))


def _live(data: Dataset, precision: Precision) -> LiveTeacher:
    """The teacher as the stage `distill` opens it for a long training."""
    built = _teacher(data)
    spec = IOSpec.for_classifier(built.preprocess, data.classes)
    return LiveTeacher(built.module, spec, data.classes, torch.device("cpu"), precision=precision, images=FEWEST_VIEWS)


def _plain_loop(data: Dataset, precision: Precision) -> float:
    """Images a second of timm's task over its own transforms."""
    student = _student(data).module
    task = timm.task.LogitDistillationTask(
        student_model=student,
        teacher_model=_teacher(data).module,
        criterion=torch.nn.CrossEntropyLoss(),
        distill_loss_weight=0.5,
        task_loss_weight=0.5,
        temperature=3.0,
        verbose=False,
    )
    as_ours: dict[str, Any] = {"interpolation": "bicubic", "color_jitter": None, "auto_augment": None}
    transform: Any = create_transform(SIZE, is_training=True, scale=SCALE, ratio=RATIO, **as_ours)
    loader = DataLoader(_Images(data, transform), BATCH, shuffle=True)
    optimizer = create_optimizer_v2(student, opt="adamw", lr=5e-4, weight_decay=0.05)
    task.train()
    seen, start = 0, time.perf_counter()
    for images, labels in loader:
        with autocast(torch.device("cpu"), precision):
            loss = task(images, labels)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen += len(labels)
    return seen / (time.perf_counter() - start)


class _Images(torch.utils.data.Dataset[tuple[Tensor, int]]):
    def __init__(self, data: Dataset, transform: Callable[[Image.Image], Tensor]) -> None:
        self._data, self._transform = data, transform

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        assert self._data.labels is not None
        return self._transform(Image.fromarray(self._data.image(index))), int(self._data.labels[index])


if __name__ == "__main__":
    main()
