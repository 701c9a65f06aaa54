"""Cross-validation within a support set: every image is held out once, and predicted by a model trained without it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from sklearn.model_selection import StratifiedKFold

from edgevit.data.dataset import Indices, Labels
from edgevit.fewshot.heads import Floats, mean_log_likelihood

MOST_FOLDS = 5


class Fold(NamedTuple):
    """The positions of the training samples and of the held-out samples, both in ascending order."""

    train: Indices
    held_out: Indices


class Score(NamedTuple):
    """Accuracy and likelihood on held-out samples. Of two scores, the greater one is better.

    Attributes:
        accuracy: the share of correct predictions.
        log_likelihood: mean of log p(label); decides between equal accuracies.
    """

    accuracy: float
    log_likelihood: float


def fold_count(labels: Labels) -> int:
    """The number of folds: MOST_FOLDS, or the size of the smallest class. With 1, cross-validation is not possible."""
    return min(MOST_FOLDS, int(np.unique(labels, return_counts=True)[1].min()))


def folds(labels: Labels, count: int, seed: int) -> list[Fold]:
    """`count` stratified folds, as a function of (labels, count, seed).

    With at least `count` samples of each class, every fold has training and held-out samples of each class.
    """
    splitter = StratifiedKFold(count, shuffle=True, random_state=seed)
    return [Fold(train, held_out) for train, held_out in splitter.split(np.zeros(len(labels)), labels)]


def score(logits: Floats, labels: Labels, balanced: bool = False) -> Score:
    """The score of logits (samples, classes). Logarithms of probabilities are logits too.

    With `balanced`, each class has the same weight, however many samples it has: the accuracy is the mean recall.
    """
    correct = logits.argmax(1) == labels
    weights = 1 / np.bincount(labels)[labels] if balanced else None
    return Score(float(np.average(correct, weights=weights)), mean_log_likelihood(logits, labels, weights))


def mean_score(scores: Sequence[Score], sizes: Sequence[int]) -> Score:
    """The score over all samples, from the scores of parts with these sizes."""
    accuracy, log_likelihood = np.average(np.asarray(scores), axis=0, weights=sizes)
    return Score(float(accuracy), float(log_likelihood))
