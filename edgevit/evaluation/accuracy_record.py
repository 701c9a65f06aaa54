"""A model's predictions for labelled images, and the accuracies that follow from them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgevit.artifacts import Json
from edgevit.evaluation.accuracy import Share, balanced_accuracy, macro_f1, per_class, wilson_interval

Protocol: TypeAlias = Literal["standard", "cross_validation"]


class ClassRecall(NamedTuple):
    """The recall of one class: `correct` of its `n` images."""

    name: str
    correct: int
    n: int
    recall: Share


class ConstantGuess(NamedTuple):
    """The accuracy of always answering the commonest class of the data set."""

    name: str
    accuracy: float


@dataclass(frozen=True)
class AccuracyRecord:
    """The predictions of one model on one data set.

    Attributes:
        sample_ids: the id of each of the n images, n ≥ 1.
        classes: the classes of the model.
        labels: (n,) int64, indices into `classes`.
        predicted: (n,) int64, indices into `classes`.
        protocol: how the images were predicted: by the model itself, or by a head that was fitted to the other folds.
    """

    sample_ids: tuple[str, ...]
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    protocol: Protocol = "standard"

    @property
    def n(self) -> int:
        """The number of images."""
        return len(self.labels)

    @cached_property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each prediction is right, (n,) bool."""
        return np.asarray(self.predicted == self.labels, np.bool_)

    @cached_property
    def top1(self) -> Share:
        """The share of right predictions, with Wilson's interval."""
        correct = int(self.correct.sum())
        return Share(correct / self.n, *wilson_interval(correct, self.n))

    @cached_property
    def balanced_accuracy(self) -> Share:
        """The mean recall of the classes that have images."""
        return balanced_accuracy(self.labels, self.predicted, len(self.classes))

    @cached_property
    def macro_f1(self) -> float:
        """The mean F1 of the classes that have images."""
        return macro_f1(self.labels, self.predicted, len(self.classes))

    @cached_property
    def recalls(self) -> tuple[ClassRecall, ...]:
        """The recall of each class that has images, the lowest first; of equals, the class with the most images."""
        images = np.bincount(self.labels, minlength=len(self.classes)).tolist()
        correct = np.bincount(self.labels[self.correct], minlength=len(self.classes)).tolist()
        recalls = [
            ClassRecall(name, right, n, Share(right / n, *wilson_interval(right, n)))
            for name, right, n in zip(self.classes, correct, images, strict=True)
            if n
        ]
        return tuple(sorted(recalls, key=lambda class_recall: (class_recall.recall.value, -class_recall.n)))

    @cached_property
    def constant_guess(self) -> ConstantGuess:
        """The commonest class of the labels, and its share."""
        images = np.bincount(self.labels, minlength=len(self.classes))
        return ConstantGuess(self.classes[int(images.argmax())], float(images.max() / self.n))

    @cached_property
    def correct_by_constant_guess(self) -> NDArray[np.bool_]:
        """Whether the constant guess is right for each image, (n,) bool."""
        commonest = np.bincount(self.labels, minlength=len(self.classes)).argmax()
        return np.asarray(self.labels == commonest, np.bool_)

    def per_class(self) -> list[Json]:
        """Recall and precision of every class, see `accuracy.per_class`."""
        return per_class(self.labels, self.predicted, self.classes)

    def metrics(self) -> Json:
        """The metrics of an evaluation: top1, balanced_accuracy, macro_f1, lowest_recall, constant_guess, images."""
        lowest = self.recalls[0]
        return {
            "top1": {**self.top1._asdict(), "n": self.n},
            "balanced_accuracy": {**self.balanced_accuracy._asdict(), "classes": len(self.recalls)},
            "macro_f1": self.macro_f1,
            "lowest_recall": {"class": lowest.name, **lowest.recall._asdict(), "n": lowest.n},
            "constant_guess": {"class": self.constant_guess.name, "value": self.constant_guess.accuracy},
            "images": self.n,
        }
