"""A session run over a labelled data set."""

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
from edgevit.errors import ArtifactError, DataError
from edgevit.graphs import class_scores
from edgevit.progress import Progress
from edgevit.runtimes.base import Session, input_batches


@dataclass(frozen=True)
class Predictions:
    """What a model said about each image; labels are indices into the model's classes.

    Attributes:
        labels: (n,) int64.
        probabilities: as `runtimes.answers` has them, (n, classes) float32.
    """

    sample_ids: tuple[str, ...]
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]

    @cached_property
    def predicted(self) -> NDArray[np.int64]:
        return np.asarray(self.probabilities.argmax(-1), np.int64)

    @cached_property
    def confidence(self) -> NDArray[np.float32]:
        return np.asarray(self.probabilities.max(-1), np.float32)

    @cached_property
    def correct(self) -> NDArray[np.bool_]:
        return np.asarray(self.predicted == self.labels, np.bool_)


def classify(session: Session, dataset: Dataset, batch_size: int, progress: Progress) -> Predictions:
    """Run a model over every image of a data set, whose labels are matched to the model's classes by name.

    Raises:
        DataError: the data set is unlabelled or empty, or has a class that the model lacks.
        ArtifactError: an answer is no number.
    """
    labels = labels_for(session, dataset, progress)
    found = np.empty((len(dataset), len(session.spec.classes)), np.float32)
    done = 0
    with progress.bar("evaluate", len(dataset), "images") as bar:
        pictures = (dataset.image(index) for index in range(len(dataset)))
        for part in probabilities(session, pictures, batch_size):
            found[done : done + len(part)] = part
            done += len(part)
            bar.advance(len(part))
    return Predictions(dataset.sample_ids, session.spec.classes, labels, found)


def probabilities(
    session: Session, pictures: Iterable[NDArray[np.uint8]], batch_size: int
) -> Iterator[NDArray[np.float32]]:
    """Probabilities for each batch of RGB pictures, (n, classes). Raises ArtifactError where one is no number."""
    image, scores = session.spec.inputs[0].name, session.spec.outputs[0]
    done = 0
    for batch, count in input_batches(session.spec, pictures, batch_size):
        output = session.infer({image: batch})[scores.name][:count]
        found = class_scores.probabilities(output, scores.meaning).astype(np.float32)
        bad = ~np.isfinite(found).all(-1)
        if bad.any():
            raise non_finite_scores(f"image {done + int(bad.argmax()) + 1}")
        yield found
        done += count


def non_finite_scores(where: object) -> ArtifactError:
    """The error for NaN or infinite answers of a model."""
    return ArtifactError(
        "the model's answers are no numbers",
        where=where,
        got="NaN or infinite scores",
        next="a float16 model may overflow: export it in float32, or train it again",
    )


def labels_for(session: Session, dataset: Dataset, progress: Progress) -> NDArray[np.int64]:
    """The label of each sample as an index into the model's classes; raises as `classify` does."""
    if dataset.labels is None or not len(dataset):
        got = "no labels" if len(dataset) else "no images"
        raise DataError("accuracy needs labelled images", where=dataset.name, got=got, next="evaluate on a test role")
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
