"""Teachers: a live model, a model on plain images, or an ensemble."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from edgevit.artifacts import IOSpec
from edgevit.configs import Tap
from edgevit.data.class_order import output_indices
from edgevit.data.dataset import Dataset
from edgevit.data.labels import missing_classes
from edgevit.data.transforms import normalize
from edgevit.errors import RecipeError, listed
from edgevit.inference.frozen_model import Forward, FrozenModel, fast_forward
from edgevit.inference.precision import Precision, autocast
from edgevit.models.embedding import classifiers
from edgevit.progress import Progress
from edgevit.training.distillation.feature_projectors import Taps
from edgevit.training.distributed import processes
from edgevit.training.distributed.sharding import shard_teacher
from edgevit.training.loop.batches import Batch


class TeacherOutput(NamedTuple):
    """A teacher's output for a batch.

    Attributes:
        logits: (samples, student's classes); None if only features are needed.
        features: the features of each loss term that compares features, by the term's index.
    """

    logits: Tensor | None
    features: Mapping[int, Sequence[Tensor]] = {}


Teacher = Callable[[Batch], TeacherOutput]


class LiveTeacher:
    """A teacher that runs on each batch, in eval mode and without gradients. Its columns are the student's classes.

    It sees the student's canvases, resized and normalized by its own IOSpec. Classes are matched by name; classes that
    the student lacks are left out.

    Args:
        student_classes: the columns of the logits; None if only features are needed.
        taps: the taps of each loss term that compares features, by the term's index.
        precision: autocast precision; the output is always float32.
        images: least number of images that it will see; see `fast_forward`.
        shard: shard the weights over the ranks; all ranks then have to call it together.

    Raises:
        RecipeError: the model lacks a class of the student, or a tap.
    """

    def __init__(
        self,
        model: nn.Module,
        io: IOSpec,
        student_classes: tuple[str, ...] | None,
        device: torch.device,
        taps: Mapping[int, Sequence[Tap]] | None = None,
        precision: Precision = "float32",
        images: int = 0,
        shard: bool = False,
    ) -> None:
        self._model, self._device, self._precision = model.eval().requires_grad_(False), device, precision
        if shard:
            shard_teacher(self._model, device)
        else:
            self._model.to(device)
            if precision == "bfloat16" and device.type == "cpu":  # convolutions: up to twice as fast, products alike
                self._model.to(memory_format=torch.channels_last)
        self.preprocess = io.preprocess
        self._forward: Forward = self._model
        if not taps and precision == "float32" and not shard:
            self._forward = fast_forward(self._model, io.preprocess, device, images)
        self._columns = None if student_classes is None else matching_columns(io, student_classes).to(device)
        size = (self.preprocess.height, self.preprocess.width)
        self._taps = Taps(self._model, taps, size, "teacher") if taps else None

    @property
    def channels(self) -> dict[int, list[int]]:
        """The number of channels of each feature, by the index of the loss term."""
        return {} if self._taps is None else self._taps.channels

    @torch.no_grad()
    def __call__(self, batch: Batch) -> TeacherOutput:
        images = normalize(batch.views[0], self.preprocess)
        features: dict[int, list[Tensor]] = {}
        with autocast(self._device, self._precision):
            if self._taps is None:
                logits = self._forward(images)
            else:
                answer, features = self._taps.forward(self._model, images)
                assert isinstance(answer, Tensor)
                logits = answer
        features = {term: [feature_map.float() for feature_map in maps] for term, maps in features.items()}
        return TeacherOutput(None if self._columns is None else logits[:, self._columns].float(), features)


class PlainTeacher:
    """A teacher that sees each plain image once, and gives every view of the image the same output.

    Its pooled features are the input of its classifier: the mean over test-time views if the model has them. The
    features of a mixed image are the mean of the two images' features, weighted by their shares, as mixup mixes labels
    (Zhang et al. 2018), and its logits are the classifier's for this mean.

    Beyer et al. 2022 warn that a teacher that does not see the student's view teaches worse over a long training; it is
    for teachers that are too slow to see every view.

    Args:
        datasets: the data sets of the streams, in order.
        student_classes: as for `LiveTeacher`.
        terms: indices of the terms of the loss that compare pooled features.
        cache: see `FrozenModel`.

    Raises:
        RecipeError: the model lacks a class of the student, or has two classifiers.
    """

    def __init__(
        self,
        model: nn.Module,
        io: IOSpec,
        student_classes: tuple[str, ...] | None,
        device: torch.device,
        datasets: Sequence[Dataset],
        terms: Sequence[int],
        cache: Path | None,
        progress: Progress,
    ) -> None:
        self._columns = None if student_classes is None else matching_columns(io, student_classes).to(device)
        if len(classifiers(model)) > 1:
            raise RecipeError(
                "teacher_view: plain needs a teacher with one classifier, and this teacher has two",
                next="leave teacher_view out, or take another teacher",
            )
        self._terms, self._embeddings = terms, list[Tensor]()
        with processes.rank_0_first(device):
            frozen = FrozenModel(model, io.preprocess, device, cache)
            for dataset in datasets:
                with progress.bar(f"show {dataset.name}", len(dataset), "images") as bar:
                    self._embeddings.append(frozen.embeddings(dataset, bar=bar))
        (self._classifier,) = classifiers(model.to(device).eval().requires_grad_(False))

    @property
    def channels(self) -> dict[int, list[int]]:
        """The number of channels of each feature, by the index of the loss term."""
        return {term: [self._embeddings[0].shape[1]] for term in self._terms}

    @torch.no_grad()
    def __call__(self, batch: Batch) -> TeacherOutput:
        streams, share = batch.streams.cpu(), batch.own_share.cpu().unsqueeze(1)
        own, partners = (self._rows(streams, samples.cpu()) for samples in (batch.samples, batch.partner_samples))
        rows = (share * own + (1 - share) * partners).to(batch.labels.device)
        logits = None if self._columns is None else self._classifier(rows)[:, self._columns].float()
        return TeacherOutput(logits, {term: [rows] for term in self._terms})

    def _rows(self, streams: Tensor, samples: Tensor) -> Tensor:
        rows = torch.empty(len(streams), self._embeddings[0].shape[1])
        for stream, embeddings in enumerate(self._embeddings):
            rows[streams == stream] = embeddings[samples[streams == stream]]
        return rows


class EnsembleTeacher:
    """An ensemble: logits are the log of the teachers' weighted mean probability (Hinton et al. 2015, section 3)."""

    def __init__(self, teachers: Sequence[Teacher], weights: Sequence[float]) -> None:
        self._teachers, self._shares = teachers, [weight / sum(weights) for weight in weights]

    def __call__(self, batch: Batch) -> TeacherOutput:
        probabilities = []
        for teacher, share in zip(self._teachers, self._shares, strict=True):
            logits = teacher(batch).logits
            assert logits is not None
            probabilities.append(share * logits.float().softmax(-1))
        tiny = torch.finfo(torch.float32).tiny
        return TeacherOutput(torch.stack(probabilities).sum(0).clamp_min(tiny).log())


def matching_columns(teacher: IOSpec, student_classes: tuple[str, ...]) -> Tensor:
    """Index of the teacher's output for each class of the student, matched by name; (student's classes,) int64.

    Raises:
        RecipeError: the teacher lacks a class.
        DataError: the teacher's classes are unnamed numbers, and the usual class orders disagree.
    """
    missing = missing_classes(student_classes, teacher.classes)
    columns = None if missing else output_indices(teacher, student_classes, "the teacher")
    if columns is None:
        raise RecipeError(
            f"the teacher does not know {len(missing)} of the student's {len(student_classes)} classes",
            got=f"missing: {listed(missing)}; the teacher's classes: {listed(teacher.classes)}",
            expected="a teacher trained on, or adapted to, the student's classes",
            next="adapt it first: a fewshot or train stage before this one",
        )
    return torch.tensor(columns)
