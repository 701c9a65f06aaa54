"""The momentum of a moving teacher, against a moving average of one number."""

from __future__ import annotations

import math

import pytest

from edgevit.training.ssl.momentum import initial_share, momentum_for, student_weight


@pytest.mark.parametrize("rises", [True, False])
@pytest.mark.parametrize("steps", [1, 7, 480])
def test_the_initial_share_is_what_is_left_of_a_start_of_one(rises: bool, steps: int) -> None:
    teacher = 1.0
    for step in range(1, steps + 1):
        momentum = 1 - 0.1 * (math.cos(math.pi * step / steps) + 1) / 2 if rises else 0.9
        teacher = momentum * teacher + (1 - momentum) * 0.0
    assert initial_share(0.9, rises, steps) == pytest.approx(teacher, rel=1e-9)


def test_the_momentum_rises_to_one() -> None:
    assert student_weight(0.9, True, 10, 10) == 0
    assert student_weight(0.9, True, 5, 10) == pytest.approx(0.05)


def test_long_trainings_have_the_papers_momentum() -> None:
    assert momentum_for(0.996, True, 2_000) == pytest.approx(0.996)
    assert momentum_for(0.996, True, 100_000) == 0.996
    assert momentum_for(0.999, False, 4_000) == pytest.approx(0.999)


@pytest.mark.parametrize(("papers", "rises"), [(0.996, True), (0.999, False)])
@pytest.mark.parametrize("steps", [80, 390, 5_000])
def test_a_training_of_80_steps_or_more_leaves_little_of_its_start(papers: float, rises: bool, steps: int) -> None:
    assert initial_share(momentum_for(papers, rises, steps), rises, steps) < 0.04
