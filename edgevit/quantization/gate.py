"""The gates of quantize: SQNR against the float model, and top-1 against it on validation images."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from edgevit.artifacts import Json
from edgevit.data import Dataset
from edgevit.errors import ParityError
from edgevit.evaluation.accuracy import Share, wilson_interval
from edgevit.evaluation.classify import labels_for
from edgevit.evaluation.paired import Drop, paired_drop
from edgevit.graphs.class_scores import probabilities
from edgevit.progress import Progress
from edgevit.quantization.images import BATCH_SIZE
from edgevit.runtimes.base import Session

MOST_VALIDATION_IMAGES = 2000


@dataclass(frozen=True)
class AnswerChange:
    """How the answers of a quantized form differ from those of the float model, on the same `n` images.

    Attributes:
        changed: share of images with another top-1 class, with Wilson's 95% interval. The loss of top-1 is at most as
            large.
        drop: loss of top-1, where the images have labels.
        limit: largest loss that the gate allows.
    """

    changed: Share
    n: int
    drop: Drop | None
    limit: float

    @property
    def is_refused(self) -> bool:
        """Whether the loss is above the limit, and beyond chance."""
        return self.drop is not None and self.drop.value > self.limit and not self.drop.may_be_chance

    @property
    def leaves_doubt(self) -> bool:
        """Whether the form passes, though the interval of the loss reaches beyond the limit."""
        high = self.changed.high if self.drop is None else self.drop.high
        return not self.is_refused and high > self.limit

    def sentence(self) -> str:
        """The difference, for people."""
        if self.drop is None:
            low, high = self.changed.low, self.changed.high
            doubt = f", so up to {100 * high:.1f} points of top-1 may be lost" if self.leaves_doubt else ""
            return f"{self.changed.value:.1%} of answers changed ({low:.1%} to {high:.1%}, n {self.n:,}){doubt}"
        interval = f"{100 * self.drop.low:.1f} to {100 * self.drop.high:.1f}, n {self.n:,}"
        doubt = f", too few images to rule out {points(self.limit)}" if self.leaves_doubt else ""
        return f"{100 * self.drop.value:.1f} points of top-1 lost ({interval}){doubt}"

    def as_json(self) -> Json:
        """The record of the difference in the stage's metrics."""
        changed = {"changed_answers": {**self.changed._asdict(), "n": self.n}}
        return changed if self.drop is None else {"top1_drop": {**asdict(self.drop), "limit": self.limit}, **changed}


class Validation:
    """Images on which the answers of quantized forms are compared with those of the float model.

    Args:
        dataset: at most MOST_VALIDATION_IMAGES of it are used, drawn by `seed`.
        reference: a session of the float model.
        limit: largest loss of top-1, as a fraction.
    """

    def __init__(self, dataset: Dataset, reference: Session, limit: float, seed: int, progress: Progress) -> None:
        self._images, self._reference = dataset.sample(MOST_VALIDATION_IMAGES, seed), reference
        self._limit, self._progress = limit, progress
        self._labels = None if dataset.labels is None else labels_for(reference, self._images, progress)

    def change(self, session: Session) -> AnswerChange:
        """The change of answers from the float model to the model of `session`."""
        answers, expected, n = self._answers(session), self._expected, len(self._images)
        num_changed = int(np.sum(answers != expected))
        changed = Share(num_changed / n, *wilson_interval(num_changed, n))
        drop = None if self._labels is None else paired_drop(expected == self._labels, answers == self._labels)
        return AnswerChange(changed, n, drop, self._limit)

    @cached_property
    def _expected(self) -> NDArray[np.int64]:
        return self._answers(self._reference)

    def _answers(self, session: Session) -> NDArray[np.int64]:
        """The most probable class of each image, (n,); -1, which is no class, where a score is not finite."""
        scores, answers = session.spec.outputs[0], []
        with self._progress.bar("compare answers with float", len(self._images), "images") as bar:
            images = (self._images.image(position) for position in range(len(self._images)))
            for outputs in session.outputs(images, BATCH_SIZE):
                shares = probabilities(outputs[scores.name], scores.meaning)
                answers.append(np.where(np.isfinite(shares).all(-1), shares.argmax(-1), -1))
                bar.advance(len(shares))
        return np.concatenate(answers)


def points(share: float) -> str:
    """A share as points of a percentage."""
    return "1 point" if share == 0.01 else f"{100 * share:g} points"


def refusal(
    where: str, sqnr_db: float, floor_db: float, change: AnswerChange | None, advice: str
) -> ParityError | None:
    """The error for a form that one of the two gates refuses, or both; None if it passes."""
    is_too_far, loses_too_much = sqnr_db < floor_db, change is not None and change.is_refused
    if not (is_too_far or loses_too_much):
        return None
    measured = f"{sqnr_db:.1f} dB against float{f', {change.sentence()}' if change else ''}"
    floor = [f"at least {floor_db:g} dB (min_sqnr_db)"] if is_too_far else []
    limit = [f"a loss of at most {points(change.limit)} (max_top1_drop)"] if change and loses_too_much else []
    keeps_accuracy = change is not None and change.drop is not None and change.drop.high <= change.limit
    return ParityError(
        "the quantized model loses too much top-1 accuracy"
        if loses_too_much
        else "the scores of the quantized model are too far from the float one's",
        where=where,
        got=measured,
        expected=", ".join(floor + limit),
        next="lower min_sqnr_db: the accuracy is within max_top1_drop" if keeps_accuracy else advice,
    )
