"""Where a student's targets come from: one teacher or several, looking at the student's views or at plain images."""

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
    """What a teacher says of a batch.

    Attributes:
        logits: (samples, student's classes), or None where only features are asked for.
        features: for each term of the loss that compares features, by its index.
    """

    logits: Tensor | None
    features: Mapping[int, Sequence[Tensor]] = {}


Teacher = Callable[[Batch], TeacherOutput]


class LiveTeacher:
    """A model that answers for each batch, in eval mode and without gradients, with the student's classes.

    It sees the same canvases as the student, resized and normalized as its own IOSpec says. Its classes are matched
    with the student's by name; those that the student lacks are left out.

    Args:
        student_classes: what its logits are given for; None where only its features are asked for.
        taps: the features that are asked for, for each term of the loss by its index.
        precision: of autocast; the answer is float32 all the same.
        images: how many it will see at least; see `fast_forward`.
        shard: leave this rank its part of the weights; every rank then has to ask at the same time.

    Raises:
        RecipeError: it lacks a class of the student, or a tap.
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
        self.preprocess = io.preprocess
        self._forward: Forward = self._model
        if not taps and precision == "float32" and not shard:
            self._forward = fast_forward(self._model, io.preprocess, device, images)
        self._columns = None if student_classes is None else matching_columns(io, student_classes).to(device)
        size = (self.preprocess.height, self.preprocess.width)
        self._taps = Taps(self._model, taps, size, "teacher") if taps else None

    @property
    def channels(self) -> dict[int, list[int]]:
        """The number of channels of each feature that is asked for."""
        return {} if self._taps is None else self._taps.channels

    @torch.no_grad()
    def __call__(self, batch: Batch) -> TeacherOutput:
        images = normalize(batch.canvases, self.preprocess)
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
    """A model that has looked at each plain image once, and answers by that for every view of it.

    Its pooled features are what enters its classifier, the mean over its test-time views where it has some.

    Beyer et al. 2022 warn that a teacher that does not see the student's view teaches worse over a long training; it is
    for teachers that are too slow to see every view.

    Args:
        datasets: of the streams, in their order.
        student_classes: as for `LiveTeacher`.
        terms: indices of the terms of the loss that compare pooled features.
        cache: see `FrozenModel`.

    Raises:
        RecipeError: it lacks a class of the student, or ends in two classifiers.
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
                "teacher_view: plain goes by what enters the teacher's one classifier, and this teacher has two",
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
        """The number of channels of each feature that is asked for."""
        return {term: [self._embeddings[0].shape[1]] for term in self._terms}

    @torch.no_grad()
    def __call__(self, batch: Batch) -> TeacherOutput:
        streams, samples = batch.streams.cpu(), batch.samples.cpu()
        rows = torch.empty(len(streams), self._embeddings[0].shape[1])
        for stream, embeddings in enumerate(self._embeddings):
            rows[streams == stream] = embeddings[samples[streams == stream]]
        rows = rows.to(batch.labels.device)
        logits = None if self._columns is None else self._classifier(rows)[:, self._columns].float()
        return TeacherOutput(logits, {term: [rows] for term in self._terms})


class EnsembleTeacher:
    """Several teachers: log of the weighted mean of their probabilities (Hinton et al. 2015, section 3)."""

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
    """For each class of the student, the teacher's output of that name.

    Raises:
        RecipeError: the teacher lacks a class.
        DataError: the teacher's classes are numbers that nobody named, and the usual orders of such folders differ.
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
