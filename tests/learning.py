"""Small models and data sets for tests of everything that learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgevit.artifacts import MANIFEST, Artifact, FileEntry, IOSpec, Manifest, manifest_text, sha256_of_file
from edgevit.configs import Augmentation, Train
from edgevit.data.dataset import ArrayImages, Dataset
from edgevit.models import BuiltModel, create_model, save_checkpoint
from edgevit.training.loop.batches import Batch
from edgevit.training.objectives import ObjectiveFunction, Outputs

TINY_VIT: dict[str, Any] = {"patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2}


class Killed(Exception):
    """Raised in the middle of a training."""


def killed_in(step: int, objective: ObjectiveFunction) -> ObjectiveFunction:
    """The objective, which raises Killed in its call number `step`; 0 is never."""
    calls = 0

    def breaks(outputs: Outputs, batch: Batch) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == step:
            raise Killed
        return objective(outputs, batch)

    return breaks


def tiny_vit(num_classes: int = 3, seed: int = 0, **changes: Any) -> BuiltModel:
    """A ViT of 8,000 parameters for 16-pixel images."""
    return create_model("vit_tiny_patch16_224", num_classes, 16, {**TINY_VIT, **changes}, seed=seed)


def tiny_token_vit(num_classes: int = 3, seed: int = 0) -> BuiltModel:
    """The same with a distillation token."""
    return create_model(
        "deit_tiny_distilled_patch16_224", num_classes, 16, TINY_VIT, distillation_token=True, seed=seed
    )


def blobs(
    name: str = "blobs.train", per_class: int = 8, classes: int = 3, seed: int = 0, labelled: bool = True
) -> Dataset:
    """Noisy images (16×16) whose bright square stands in another place for each class."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), per_class)
    pixels = rng.integers(0, 120, (len(labels), 16, 16), dtype=np.uint8)
    for image, label in zip(pixels, labels, strict=True):
        image[2:8, 1 + 5 * label : 6 + 5 * label] = 255
    return Dataset(
        name=name,
        classes=tuple("abcdef"[:classes]),
        sample_ids=tuple(f"{name}/{index}" for index in range(len(labels))),
        labels=labels if labelled else None,
        images=ArrayImages(pixels),
        indices=np.arange(len(labels)),
    )


def unbalanced_blobs() -> Dataset:
    """`blobs` with 8, 3 and 1 images of its classes."""
    return blobs().subset(np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 16]))


def train_config(**changes: Any) -> Train:
    """A short training run with little randomness."""
    fields = {
        "stage": "train",
        "id": "model",
        "model": "vit_tiny_patch16_224",
        "data": "blobs.train",
        "epochs": 2,
        "batch_size": 6,
        "learning_rate": 2e-3,
        "augmentation": Augmentation(scale=(0.9, 1.0), horizontal_flip=0),
    }
    return Train.model_validate({**fields, **changes})


def published_checkpoint(folder: Path, built: BuiltModel, classes: tuple[str, ...]) -> Artifact:
    """The model as a finished checkpoint under `folder`."""
    folder = folder / "checkpoint"
    folder.mkdir(exist_ok=True)
    save_checkpoint(built.module, built.description, folder)
    files = {file.name: FileEntry(sha256=sha256_of_file(file), size=file.stat().st_size) for file in folder.iterdir()}
    manifest = Manifest(
        kind="checkpoint",
        id="model",
        key="0" * 64,
        digest="1" * 64,
        stage="train",
        stage_version=1,
        config={},
        files=files,
        io=IOSpec.for_classifier(built.preprocess, classes),
    )
    (folder / MANIFEST).write_text(manifest_text(manifest), encoding="utf-8")
    return Artifact.load(folder)


def random_logits(seed: int, samples: int = 6, classes: int = 5) -> Tensor:
    """Logits in float64, drawn from a seed."""
    return 3 * torch.randn(samples, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
