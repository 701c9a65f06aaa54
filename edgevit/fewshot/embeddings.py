"""The features of a data set, from a checkpoint or from an exported model in its runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from edgevit.artifacts import EMBEDDING, Artifact
from edgevit.configs import Augmentation
from edgevit.data.dataset import Dataset
from edgevit.fewshot.heads import Floats
from edgevit.inference.frozen_model import FrozenModel
from edgevit.models.checkpoints import open_checkpoint
from edgevit.progress import Progress
from edgevit.runtimes.base import Session


class Embedder:
    """Features by a model: the input of its classifier, from a checkpoint or from a file with an embedding output.

    Features from a checkpoint are kept in the cache. For a file without an embedding output, the features are its
    logits, and a note says so.
    """

    def __init__(
        self,
        model: Artifact,
        session: Session,
        device: str,
        batch_size: int,
        progress: Progress,
        cache: Path | None = None,
    ) -> None:
        self._session, self._batch_size, self._progress = session, batch_size, progress
        self._frozen: FrozenModel | None = None
        if model.kind == "checkpoint":
            module, preprocess = open_checkpoint(model).module, session.spec.preprocess
            self._frozen = FrozenModel(module, preprocess, torch.device(device), cache)
        self.output = EMBEDDING if self._frozen or session.spec.has_embedding else session.spec.outputs[0].name
        if self.output != EMBEDDING:
            progress.say(
                "    the model has no embedding output: its logits are the features (export it with embedding: true)"
            )

    def __call__(self, dataset: Dataset) -> Floats:
        """The features of a data set, (samples, dimensions), in its order."""
        with self._progress.bar(f"features of {dataset.name}", len(dataset), "images") as bar:
            if self._frozen is not None:
                return self._frozen.embeddings(dataset, self._batch_size, bar).numpy().astype(np.float64)
            parts = []
            images = (dataset.image(index) for index in range(len(dataset)))
            for outputs in self._session.outputs(images, self._batch_size):
                parts.append(outputs[self.output].astype(np.float64))  # a copy
                bar.advance(len(parts[-1]))
        return np.concatenate(parts)

    def of_views(self, dataset: Dataset, augmentation: Augmentation, count: int, seed: int) -> list[Floats] | None:
        """The features of `count` random views of each image; None for a file, which takes no such views."""
        if self._frozen is None:
            return None
        with self._progress.bar(f"views of {dataset.name}", count * len(dataset), "views") as bar:
            views = [self._frozen.embeddings_of_views(dataset, augmentation, view, seed, bar) for view in range(count)]
        return [view.numpy().astype(np.float64) for view in views]
