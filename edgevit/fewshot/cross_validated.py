"""Accuracy of a head without test images, for `protocol: cross_validation` of the stage evaluate."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from edgevit.data.dataset import Dataset, Indices
from edgevit.data.labels import short_classes
from edgevit.data.near_duplicates import look_of_image, near_duplicates
from edgevit.errors import DataError, listed
from edgevit.evaluation.classify import Predictions
from edgevit.fewshot.crossvalidation import fold_count, folds
from edgevit.fewshot.heads import Floats, softmax
from edgevit.fewshot.methods import fit_head
from edgevit.progress import Progress

Embed = Callable[[Dataset], Floats]


class CrossValidation(NamedTuple):
    """Predictions for each image by a head that was fitted without it.

    Attributes:
        dataset: the images that were predicted.
        folds: number of parts that were held out in turn.
        copies: number of images that were left out because they look nearly like an earlier image of their class.
    """

    predictions: Predictions
    dataset: Dataset
    folds: int
    copies: int


def cross_validate(dataset: Dataset, method: str, seed: int, embed: Embed, progress: Progress) -> CrossValidation:
    """Predict each image by a head of this method that was fitted to the other folds of the data set.

    There are up to five stratified folds. An image that looks nearly like an earlier image of its class is left out,
    because a head would know it from its copy. All folds use the same features: if the model was trained with these
    labels, the accuracy says nothing about new images.

    Raises:
        DataError: the data set has no labels, or a class has fewer than two different images.
        RecipeError: the method is transductive.
    """
    distinct = dataset.subset(_distinct(dataset, progress))
    labels = _checked_labels(distinct)
    count = fold_count(labels)
    features = embed(distinct)
    probabilities = np.zeros((len(distinct), len(distinct.classes)), np.float32)
    with progress.bar("cross-validation", count, "folds") as bar:
        for train, held_out in folds(labels, count, seed):
            head = fit_head(method, features[train], labels[train], len(distinct.classes))
            probabilities[held_out] = softmax(head.logits(features[held_out])).astype(np.float32)
            bar.advance()
    predictions = Predictions(distinct.sample_ids, distinct.classes, labels, probabilities)
    return CrossValidation(predictions, distinct, count, len(dataset) - len(distinct))


def _distinct(dataset: Dataset, progress: Progress) -> Indices:
    """The positions of images that look nearly like no earlier image of their class."""
    if dataset.labels is None:
        raise DataError(
            "cross-validation needs labelled images", where=dataset.name, next="evaluate on a labelled role"
        )
    with progress.bar("looking for copies", len(dataset), "images") as bar:
        looks = []
        for position in range(len(dataset)):
            looks.append(look_of_image(dataset.image(position)))
            bar.advance()
    kept = []
    for label in np.unique(dataset.labels):
        members = np.flatnonzero(dataset.labels == label)
        kept.append(members[near_duplicates([looks[member] for member in members.tolist()]) < 0])
    return np.sort(np.concatenate(kept))


def _checked_labels(dataset: Dataset) -> Indices:
    assert dataset.labels is not None
    counts = np.bincount(dataset.labels, minlength=len(dataset.classes))
    if counts.min() < 2:
        short = short_classes(dataset.classes, counts.tolist(), 2)
        raise DataError(
            "cross-validation needs two different images of each class",
            where=dataset.name,
            got=listed(short),
            next="add images of these classes, or evaluate on test images",
        )
    return dataset.labels
