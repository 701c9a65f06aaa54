"""The gates of quantize: SQNR against the float model, and top-1 against it on validation images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgevit.artifacts import Json, sha256_of_file
from edgevit.data import Dataset
from edgevit.errors import ParityError
from edgevit.evaluation.accuracy import Share, wilson_interval
from edgevit.evaluation.classify import class_probabilities, labels_for
from edgevit.evaluation.paired import Drop, paired_drop
from edgevit.progress import Progress
from edgevit.runtimes.base import Session
from edgevit.terminal import points

MOST_VALIDATION_IMAGES = 2000
BATCH_SIZE = 32

Advice = Callable[[Sequence[str]], str]  # the next step for a form that the gates with these options refuse


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
        return not self.is_within_limit and self.drop is not None and not self.drop.may_be_chance

    @property
    def is_within_limit(self) -> bool:
        """Whether the measured loss is at most the limit, whatever its interval. Without labels, no loss is known."""
        return self.drop is None or self.drop.value <= self.limit

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
        interval = f"{points(self.drop.low)} to {points(self.drop.high)}, n {self.n:,}"
        doubt = f", a loss above {limit_text(self.limit)} is not ruled out" if self.leaves_doubt else ""
        return f"{points(self.drop.value)} points of top-1 lost ({interval}){doubt}"

    def as_json(self) -> Json:
        """The record of the difference in the stage's metrics."""
        changed = {"changed_answers": {**self.changed._asdict(), "n": self.n}}
        return changed if self.drop is None else {"top1_drop": {**asdict(self.drop), "limit": self.limit}, **changed}


@dataclass(frozen=True)
class Closeness:
    """A quantized model against the float model, with the limit of the gate by SQNR.

    Attributes:
        sqnr_db: of the logits, at least `floor_db` if the gate passes the model.
        change: of answers on the validation images; None if they were not compared.
    """

    sqnr_db: float
    floor_db: float
    change: AnswerChange | None = None

    @property
    def refused_by(self) -> list[str]:
        """The options of the gates that refuse the model; empty if it passes."""
        is_too_far, loses_too_much = self.sqnr_db < self.floor_db, self.change is not None and self.change.is_refused
        return [*(["min_sqnr_db"] if is_too_far else []), *(["max_top1_drop"] if loses_too_much else [])]


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
        self._changes: dict[str, AnswerChange] = {}  # by the hash of the model's file

    def change(self, session: Session) -> AnswerChange:
        """The change of answers from the float model to the model of `session`."""
        answers, expected, n = self._answers(session), self._expected, len(self._images)
        num_changed = int(np.sum(answers != expected))
        changed = Share(num_changed / n, *wilson_interval(num_changed, n))
        drop = None if self._labels is None else paired_drop(expected == self._labels, answers == self._labels)
        return AnswerChange(changed, n, drop, self._limit)

    def change_of_file(self, file: Path, session: Session) -> AnswerChange:
        """The change of answers to an ONNX file, run by `session` on this machine. Equal files are compared once.

        The hash tells the runtime's options, too: `write_onnx` writes them into the file.
        """
        digest = sha256_of_file(file)
        if digest not in self._changes:
            self._changes[digest] = self.change(session)
        return self._changes[digest]

    @cached_property
    def _expected(self) -> NDArray[np.int64]:
        return self._answers(self._reference)

    def _answers(self, session: Session) -> NDArray[np.int64]:
        """The most probable class of each image, (n,); -1, which is no class, where a score is not finite."""
        answers = []
        with self._progress.bar("compare answers with float", len(self._images), "images") as bar:
            images = (self._images.image(position) for position in range(len(self._images)))
            for shares in class_probabilities(session, images, BATCH_SIZE):
                answers.append(np.where(np.isfinite(shares).all(-1), shares.argmax(-1), -1))
                bar.advance(len(shares))
        return np.concatenate(answers)


def limit_text(limit: float) -> str:
    """A limit on the loss of top-1: 1 point, 0.25 points."""
    return "1 point" if limit == 0.01 else f"{100 * limit:g} points"


def refusal(where: str, closeness: Closeness, advice: Advice) -> ParityError | None:
    """The error for a form that a gate refuses; None if the form passes."""
    refused_by, change = closeness.refused_by, closeness.change
    if not refused_by:
        return None
    limits = {"min_sqnr_db": f"at least {closeness.floor_db:g} dB (min_sqnr_db)"}
    if change is not None:
        limits["max_top1_drop"] = f"a loss of at most {limit_text(change.limit)} (max_top1_drop)"
    keeps_accuracy = change is not None and change.drop is not None and change.drop.high <= change.limit
    return ParityError(
        "the quantized model loses too much top-1 accuracy"
        if "max_top1_drop" in refused_by
        else "the scores of the quantized model are too far from the float one's",
        where=where,
        got=f"{closeness.sqnr_db:.1f} dB against float{f', {change.sentence()}' if change else ''}",
        expected=", ".join(limits[gate] for gate in refused_by),
        next="lower min_sqnr_db: the accuracy is within max_top1_drop" if keeps_accuracy else advice(refused_by),
    )
