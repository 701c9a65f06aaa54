"""Successive halving: all students train for a little; the most accurate train on, each round fewer and for longer.

Jamieson and Talwalkar 2016, "Non-stochastic Best Arm Identification and Hyperparameter Optimization", algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

REDUCTION = 3  # η of Hyperband (Li et al. 2017): each round has a third of the students and three times the epochs
STUDENTS, EPOCHS = 8, 9  # of the first round, and at the end of the last one, if nothing else is asked
FINALISTS = 2  # the least number of students in the last round


@dataclass(frozen=True)
class Round:
    """One round of the short trainings.

    Attributes:
        students: the largest number of students that train in it.
        epochs: that each of them has trained for at its end, with the rounds before it.
    """

    students: int
    epochs: int


def rounds_of(students: int, epochs: int) -> tuple[Round, ...]:
    """The rounds for a number of students, of which the last one ends after `epochs` epochs.

    8 students and 9 epochs: 8 students to 1 epoch, 3 of them to 3 epochs, 2 of these to 9 epochs.
    """
    counts = [students]
    while counts[-1] > FINALISTS:
        counts.append(max(FINALISTS, math.ceil(counts[-1] / REDUCTION)))
    rounds: list[Round] = []
    for place, count in enumerate(counts):
        ends = max(1, round(epochs / REDUCTION ** (len(counts) - 1 - place)))
        if not rounds or ends > rounds[-1].epochs:  # few epochs make fewer rounds
            rounds.append(Round(count, ends))
    return tuple(rounds)


def most_accurate(top1: Mapping[str, float], count: int) -> tuple[str, ...]:
    """The names of the `count` students with the highest top-1, the highest first.

    Of students with equal top-1, those that come first in the mapping are taken.
    """
    return tuple(sorted(top1, key=lambda name: -top1[name])[:count])
