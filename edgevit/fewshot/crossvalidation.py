"""Cross-validation inside a support set: every image is held out once, and answered by what has not seen it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from sklearn.model_selection import StratifiedKFold

from edgevit.data.dataset import Indices, Labels
from edgevit.fewshot.heads import Floats, log_softmax

MOST_FOLDS = 5


class Fold(NamedTuple):
    """Which samples to learn from and which to be tested on, both in ascending order."""

    train: Indices
    held_out: Indices


class Score(NamedTuple):
    """How well held-out samples were answered. Of two scores, the greater is the better one.

    Attributes:
        accuracy: the share of them that was right.
        log_likelihood: mean of log p(label); decides between equal accuracies.
    """

    accuracy: float
    log_likelihood: float


def fold_count(labels: Labels) -> int:
    """How many folds these labels allow: MOST_FOLDS, or the size of the smallest class. Below 2 there are none."""
    return min(MOST_FOLDS, int(np.unique(labels, return_counts=True)[1].min()))


def folds(labels: Labels, count: int, seed: int) -> list[Fold]:
    """`count` folds, a function of (labels, count, seed): each class is spread over them as evenly as it can be.

    With at least `count` samples of each class, each class occurs in every fold, on either side.
    """
    splitter = StratifiedKFold(count, shuffle=True, random_state=seed)
    return [Fold(train, held_out) for train, held_out in splitter.split(np.zeros(len(labels)), labels)]


def score(logits: Floats, labels: Labels) -> Score:
    """The score of answers (samples, classes); log-probabilities are logits too."""
    right = logits.argmax(1) == labels
    return Score(float(right.mean()), float(log_softmax(logits)[np.arange(len(labels)), labels].mean()))


def mean_score(scores: Sequence[Score], sizes: Sequence[int]) -> Score:
    """The score of all samples together, from those of parts of these sizes."""
    accuracy, log_likelihood = np.average(np.asarray(scores), axis=0, weights=sizes)
    return Score(float(accuracy), float(log_likelihood))
