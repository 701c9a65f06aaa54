"""Which data sets may train a model together, and with which labels."""

from __future__ import annotations

from collections.abc import Sequence

from edgevit.configs import Objective
from edgevit.data.dataset import Dataset
from edgevit.errors import RecipeError
from edgevit.training.batches import TrainingStream


def labelled_stream(dataset: Dataset) -> TrainingStream:
    """The one stream of supervised training. Raises RecipeError without labels, or with a single class."""
    if dataset.labels is None:
        raise RecipeError("training needs labels", where=dataset.name, next="name a role that has them, such as train")
    if len(dataset.classes) < 2:
        raise RecipeError(
            "there is a single class, so nothing can be told apart", where=dataset.name, got=dataset.classes[0]
        )
    return TrainingStream(dataset)


def student_classes(datasets: Sequence[Dataset], teacher_classes: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the first stream that has labels; the teacher's where none has."""
    return next((dataset.classes for dataset in datasets if dataset.labels is not None), teacher_classes)


def distillation_streams(
    datasets: Sequence[Dataset], shares: Sequence[float], classes: tuple[str, ...], terms: Sequence[Objective]
) -> list[TrainingStream]:
    """The streams of a distillation. A data set of other classes than the student's lends its pictures alone."""
    streams = [
        TrainingStream(dataset, share, labelled=dataset.labels is not None and dataset.classes == classes)
        for dataset, share in zip(datasets, shares, strict=True)
    ]
    if any(term.loss == "cross_entropy" for term in terms) and not any(stream.labelled for stream in streams):
        raise RecipeError(
            "cross_entropy needs labels, and no stream has any",
            got=", ".join(dataset.name for dataset in datasets),
            expected="a labelled stream, or objectives hard and soft only",
        )
    return streams


def validation_set(dataset: Dataset | None, classes: tuple[str, ...]) -> Dataset | None:
    """The data set, once it is sure that its labels mean the same as the model's outputs."""
    if dataset is None:
        return None
    if dataset.labels is None or dataset.classes != classes:
        raise RecipeError(
            "this data set cannot validate the model: its classes are others, or it has no labels",
            where=dataset.name,
            got=f"{len(dataset.classes)} classes",
            expected=f"labels of the model's {len(classes)} classes, in the same order",
        )
    return dataset
