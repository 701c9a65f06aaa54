"""The streams of a training: its data sets, with labels matched to the model's classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from edgevit.configs import CrossEntropy, Objective
from edgevit.data.dataset import Dataset
from edgevit.data.labels import labels_among, missing_classes
from edgevit.errors import RecipeError
from edgevit.training.class_balance import Floats, check_every_class_has_samples
from edgevit.training.distillation.feature_projectors import FEATURE_TERMS
from edgevit.training.loop.batches import TrainingStream


def labelled_stream(dataset: Dataset) -> TrainingStream:
    """The stream of supervised training. Raises RecipeError without labels, or with a single class."""
    if dataset.labels is None:
        raise RecipeError("training needs labels", where=dataset.name, next="name a role that has them, such as train")
    if len(dataset.classes) < 2:
        raise RecipeError(
            "training needs at least two classes, and there is a single class",
            where=dataset.name,
            got=dataset.classes[0],
        )
    return TrainingStream(dataset)


def student_classes(
    datasets: Sequence[Dataset], teacher_classes: tuple[str, ...], terms: Sequence[Objective]
) -> tuple[str, ...]:
    """The student's classes: the classes of the first labelled stream whose classes the teacher has.

    Without such a stream they are the teacher's classes; or the classes of the first labelled stream, if a term needs
    labels or no term needs the teacher's logits.
    """
    labelled = [dataset.classes for dataset in datasets if dataset.labels is not None]
    known = [classes for classes in labelled if not missing_classes(classes, teacher_classes)]
    if known:
        return known[0]
    needs_labels = any(isinstance(term, CrossEntropy) or term.samples == "labelled" for term in terms)
    return labelled[0] if labelled and (needs_labels or not needs_logits(terms)) else teacher_classes


def needs_logits(terms: Sequence[Objective]) -> bool:
    """Whether any term needs the teacher's logits."""
    return any(not isinstance(term, (CrossEntropy, *FEATURE_TERMS)) for term in terms)


def distillation_streams(
    datasets: Sequence[Dataset], shares: Sequence[float], classes: tuple[str, ...], terms: Sequence[Objective]
) -> list[TrainingStream]:
    """The streams of a distillation. Labels are matched with the student's classes by name.

    The labels of a data set with a class that the student lacks are not used. If no term reads labels, no labels are
    used: the classifier is not trained, so its accuracy would mean nothing.

    Raises:
        RecipeError: a term needs labelled samples, or unlabelled samples, and no stream has any.
    """
    reads_labels = any(not isinstance(term, FEATURE_TERMS) or term.samples != "all" for term in terms)
    streams = [
        TrainingStream(aligned, share, labelled=reads_labels and _has_labels_of(aligned, classes))
        for dataset, share in zip(datasets, shares, strict=True)
        for aligned in (_aligned(dataset, classes),)
    ]
    for term in terms:
        needs = "labelled" if isinstance(term, CrossEntropy) else term.samples
        if needs != "all" and not any(stream.labelled == (needs == "labelled") for stream in streams):
            raise RecipeError(
                f"{term.loss} applies to {needs} images, and no stream has any with the student's classes",
                got=", ".join(dataset.name for dataset in datasets),
                expected=f"{'a' if needs == 'labelled' else 'an'} {needs} stream, or other objectives",
            )
    return streams


def sampled(streams: Sequence[TrainingStream], sampling: Literal["shuffled", "balanced"]) -> list[TrainingStream]:
    """The streams in the order that a stage asks for. Streams without labels stay shuffled.

    Raises:
        RecipeError: all of them are without labels.
        DataError: a class has no image in a stream with labels.
    """
    if sampling == "shuffled":
        return list(streams)
    if not any(stream.labelled for stream in streams):
        raise RecipeError(
            "sampling: balanced needs labels, and no stream has any that the loss reads",
            got=", ".join(stream.dataset.name for stream in streams),
            next="leave sampling out, or add a labelled stream",
        )
    for stream in streams:
        if stream.labelled:
            check_every_class_has_samples(class_counts([stream]), stream.dataset.classes, stream.dataset.name)
    return [replace(stream, balanced=stream.labelled) for stream in streams]


def class_counts(streams: Sequence[TrainingStream]) -> Floats:
    """The number of labelled samples of each class, (classes,), in the proportions in which training shows them.

    With several labelled streams, a stream counts by its share of a batch.
    """
    labelled = [stream for stream in streams if stream.labelled]
    samples, shares = sum(len(stream.dataset) for stream in labelled), sum(stream.share for stream in labelled)
    counts = np.zeros(len(labelled[0].dataset.classes))
    for stream in labelled:
        assert stream.dataset.labels is not None
        factor = stream.share / shares * samples / len(stream.dataset)
        counts += factor * np.bincount(stream.dataset.labels, minlength=len(counts))
    return counts


def _has_labels_of(dataset: Dataset, classes: tuple[str, ...]) -> bool:
    return dataset.labels is not None and dataset.classes == classes


def _aligned(dataset: Dataset, classes: tuple[str, ...]) -> Dataset:
    """The data set with labels in the order of `classes`; unchanged if `classes` lacks a class, or without labels."""
    labels = labels_among(dataset, classes)
    return dataset if labels is None else replace(dataset, classes=classes, labels=labels)


def validation_set(dataset: Dataset | None, classes: tuple[str, ...]) -> Dataset | None:
    """The data set with labels in the order of the model's outputs. Raises RecipeError if it has no such labels."""
    if dataset is None:
        return None
    aligned = _aligned(dataset, classes)
    if not _has_labels_of(aligned, classes):
        raise RecipeError(
            "this data set cannot validate the model: it has other classes, or no labels",
            where=dataset.name,
            got=f"{len(dataset.classes)} classes",
            expected=f"labels of the model's {len(classes)} classes",
        )
    return aligned
