"""Predictions of a session on a labelled data set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from edgevit.artifacts import IOSpec
from edgevit.data import Dataset
from edgevit.data.class_order import output_indices
from edgevit.data.labels import lacks_classes, missing_classes
from edgevit.errors import DataError, NonFiniteScores
from edgevit.evaluation.accuracy_record import AccuracyRecord
from edgevit.graphs import class_scores
from edgevit.memory import freed_memory_kept
from edgevit.progress import Progress
from edgevit.runtimes.base import Session


@dataclass(frozen=True)
class Predictions:
    """A model's predictions, with the labels.

    Attributes:
        sample_ids: the id of each of the n images.
        classes: the classes of the model.
        labels: (n,) int64, indices into `classes`.
        probabilities: (n, classes) float32, see `graphs.class_scores.probabilities`.
    """

    sample_ids: tuple[str, ...]
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]

    @cached_property
    def predicted(self) -> NDArray[np.int64]:
        """The most probable class of each image, (n,) int64, indices into `classes`."""
        return np.asarray(self.probabilities.argmax(-1), np.int64)

    @cached_property
    def confidence(self) -> NDArray[np.float32]:
        """The largest probability of each image, (n,) float32."""
        return np.asarray(self.probabilities.max(-1), np.float32)

    @cached_property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each prediction is right, (n,) bool."""
        return np.asarray(self.predicted == self.labels, np.bool_)

    @property
    def record(self) -> AccuracyRecord:
        """The predictions without their probabilities."""
        return AccuracyRecord(self.sample_ids, self.classes, self.labels, self.predicted)


@freed_memory_kept()
def classify(session: Session, dataset: Dataset, batch_size: int, progress: Progress) -> Predictions:
    """Predict every image of a data set. Its labels are matched to the model's classes by name.

    Raises:
        DataError: the data set is unlabelled or empty, or has a class that the model lacks.
        NonFiniteScores: a score is not finite.
    """
    labels = labels_for(session, dataset, progress)
    scores = np.empty((len(dataset), len(session.spec.classes)), np.float32)
    done = 0
    with progress.bar("evaluate", len(dataset), "images") as bar:
        images = (dataset.image(index) for index in range(len(dataset)))
        for batch in predict_probabilities(session, images, batch_size):
            scores[done : done + len(batch)] = batch
            done += len(batch)
            bar.advance(len(batch))
    return Predictions(dataset.sample_ids, session.spec.classes, labels, scores)


def predict_probabilities(
    session: Session, images: Iterable[NDArray[np.uint8]], batch_size: int
) -> Iterator[NDArray[np.float32]]:
    """Class probabilities of RGB images, (n, classes) per batch. Raises NonFiniteScores if a score is not finite."""
    done = 0
    for batch_probabilities in class_probabilities(session, images, batch_size):
        not_finite = ~np.isfinite(batch_probabilities).all(-1)
        if not_finite.any():
            raise non_finite_scores(f"image {done + int(not_finite.argmax()) + 1}")
        yield batch_probabilities
        done += len(batch_probabilities)


def class_probabilities(
    session: Session, images: Iterable[NDArray[np.uint8]], batch_size: int
) -> Iterator[NDArray[np.float32]]:
    """Class probabilities of RGB images, (n, classes) per batch; not finite where the model's scores are not."""
    scores = session.spec.outputs[0]
    for outputs in session.outputs(images, batch_size):
        yield class_scores.probabilities(outputs[scores.name], scores.meaning).astype(np.float32)


def non_finite_scores(where: object) -> NonFiniteScores:
    """The error for a model with NaN or infinite scores."""
    return NonFiniteScores(
        "the model's scores are not finite",
        where=where,
        got="NaN or infinity",
        next="export the model in float32, since float16 may overflow; or train it again",
    )


def labels_for(session: Session, dataset: Dataset, progress: Progress) -> NDArray[np.int64]:
    """The label of each sample as an index into the model's classes, (samples,). Raises DataError as `classify`."""
    if dataset.labels is None or not len(dataset):
        got = "no labels" if len(dataset) else "no images"
        raise DataError(
            "accuracy needs labelled images",
            where=dataset.name,
            got=got,
            next="evaluate on a labelled role, such as test",
        )
    mapping = _class_mapping(session.spec, dataset, progress)
    return mapping[dataset.labels]


def _class_mapping(spec: IOSpec, dataset: Dataset, progress: Progress) -> NDArray[np.int64]:
    """The index of the model's output for each class of the data set."""
    outputs = output_indices(spec, dataset.classes, dataset.name)
    if outputs is None:
        advice = "name these classes in the data set's include_classes, or evaluate a model trained on them"
        raise lacks_classes("the model", dataset.classes, spec.classes, dataset.name, advice)
    if missing_classes(dataset.classes, spec.classes):
        progress.say("note: the model does not name its classes: its outputs are taken in the order of the data set's")
    return np.array(outputs, np.int64)
