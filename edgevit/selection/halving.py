"""Successive halving: all students train for a little; the most accurate train on, each round fewer and for longer.

Jamieson and Talwalkar 2016, "Non-stochastic Best Arm Identification and Hyperparameter Optimization", algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

REDUCTION = 3  # η of Hyperband (Li et al. 2017): each round has a third of the students and three times the epochs
STUDENTS = 6  # of the first round, if nothing else is asked
LEAST_IMAGES = 6000  # that a student sees in the first round: fewer rank students badly (selection_rounds.json)
LATER_ROUNDS = (3, 2)  # the least number of students in the second round and in the last one


@dataclass(frozen=True)
class Round:
    """One round of the short trainings.

    Attributes:
        students: the largest number of students that train in it.
        epochs: that each of them has trained for at its end, with the rounds before it.
    """

    students: int
    epochs: int


def rounds_for_images(
    students: int, images_of_epoch: float, most_epochs: int, epochs: int | None = None
) -> tuple[Round, ...]:
    """The rounds for a number of students and of images.

    In the first round, each student sees `LEAST_IMAGES`, but trains for no more than half of the last round's epochs.

    Args:
        images_of_epoch: the number of images that a training sees in an epoch.
        most_epochs: the largest number of epochs of the last round, if `epochs` does not give it.
        epochs: at the end of the last round. None: three times those of the first round.
    """
    first = math.ceil(LEAST_IMAGES / images_of_epoch)
    last = min(most_epochs, REDUCTION * first) if epochs is None else epochs
    return rounds_of(students, last, max(1, min(first, last // 2)))


def rounds_of(students: int, epochs: int, first: int = 1) -> tuple[Round, ...]:
    """The rounds for a number of students: three, of which the last one ends after `epochs` epochs.

    9 students and 18 epochs: 9 students to 2 epochs, 3 of them to 6 epochs, 2 of these to 18 epochs. A round that would
    have as many students as the next one is left out. So is a round without an epoch of its own: with 15 epochs in the
    first round, 6 students and 40 epochs are 6 students to 15 epochs and 2 of them to 40.

    Args:
        first: the least number of epochs of the first round.
    """
    second, last = (max(least, math.ceil(students / REDUCTION**place)) for place, least in enumerate(LATER_ROUNDS, 1))
    counts = [students, min(students, second), min(students, last)]
    rounds: list[Round] = []
    for place, count in enumerate(counts):
        ends = max(min(first, epochs), round(epochs / REDUCTION ** (len(counts) - 1 - place)))
        if count in counts[place + 1 :] or (rounds and ends == rounds[-1].epochs):
            continue
        rounds.append(Round(count, ends))
    return tuple(rounds)


def epochs_in_all(rounds: Sequence[Round]) -> int:
    """The number of epochs of all students together."""
    before = [0, *(each.epochs for each in rounds)]
    return sum(each.students * (each.epochs - start) for each, start in zip(rounds, before, strict=False))


def most_accurate(top1: Mapping[str, float], count: int) -> tuple[str, ...]:
    """The names of the `count` students with the highest top-1, the highest first.

    Of students with equal top-1, those that come first in the mapping are taken.
    """
    return tuple(sorted(top1, key=lambda name: -top1[name])[:count])
