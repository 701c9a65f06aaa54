"""Accuracy of heads that were fitted to a model's frozen features, over draws of the labelled images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from edgevit.artifacts import Json
from edgevit.evaluation.accuracy import Z_95, Share, wilson_interval
from edgevit.evaluation.accuracy_record import AccuracyRecord, ConstantGuess


@dataclass(frozen=True)
class HeadPredictions:
    """The predictions of one kind of head on a data set.

    Attributes:
        head: its name, such as "kNN, k 20, τ 0.07" or "linear".
        label_share: the share of the labels that it was fitted to.
        support_images: the number of labelled images that it was fitted to.
        predicted: (draws, n) int64, the class of each of the n images by the head of each draw of the labels.
    """

    head: str
    label_share: float
    support_images: int
    predicted: NDArray[np.int64]


@dataclass(frozen=True)
class FeatureRecord:
    """The predictions of heads on the features of one model, for one data set.

    Attributes:
        sample_ids: the id of each of the n images.
        classes: the classes of the data set.
        labels: (n,) int64, indices into `classes`.
        heads: the heads, in the order in which they are shown.
    """

    sample_ids: tuple[str, ...]
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    heads: tuple[HeadPredictions, ...]

    @property
    def constant_guess(self) -> ConstantGuess:
        """The commonest class of the labels, and its share."""
        return AccuracyRecord(self.sample_ids, self.classes, self.labels, self.labels).constant_guess

    def top1(self, head: HeadPredictions) -> Share:
        """The accuracy of a head over images and draws, see `accuracy_over_draws`."""
        return accuracy_over_draws(head.predicted == self.labels)

    def metrics(self) -> Json:
        """The metrics of an evaluation: heads, constant_guess, images."""
        guess = self.constant_guess
        return {
            "heads": [
                {
                    "head": head.head,
                    "label_share": head.label_share,
                    "support_images": head.support_images,
                    "draws": len(head.predicted),
                    "top1": {**self.top1(head)._asdict(), "n": len(self.labels)},
                }
                for head in self.heads
            ],
            "constant_guess": {"class": guess.name, "value": guess.accuracy},
            "images": len(self.labels),
        }


def accuracy_over_draws(correct: NDArray[np.bool_]) -> Share:
    """Accuracy over several draws of the labels, with a 95% interval for new images and for new draws.

    The variance of the mean is the sum of two parts: that of the images, σ²/n, over their mean over the draws; and that
    of the draws, σ²/draws, over their accuracies. The sum is a little too large, never too small, because the noise of
    single predictions is in both. The interval is Wilson's at the effective number of predictions (Korn and Graubard
    1998), with Satterthwaite's degrees of freedom. With one draw, it is Wilson's interval.

    Args:
        correct: (draws, n), whether the prediction of the head of each draw is right for each image.
    """
    draws, n = correct.shape
    value = float(correct.mean())
    of_images = float(correct.mean(0).var(ddof=1)) / n if n > 1 else 0.0
    of_draws = float(correct.mean(1).var(ddof=1)) / draws if draws > 1 else 0.0
    variance = of_images + of_draws
    if draws == 1 or not variance:
        return Share(value, *wilson_interval(value * n, n))
    freedom = variance**2 / (of_images**2 / max(n - 1, 1) + of_draws**2 / (draws - 1))
    widening = (Z_95 / float(stats.t.ppf(0.975, freedom))) ** 2
    effective = value * (1 - value) / variance * widening
    return Share(value, *wilson_interval(value * effective, effective))
