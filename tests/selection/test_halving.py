"""Rounds of successive halving: their numbers, their cost, and the students that go on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgevit.selection.halving import Round, epochs_in_all, most_accurate, rounds_for_images, rounds_of


@pytest.mark.parametrize(
    ("students", "epochs", "expected"),
    [
        (9, 18, [(9, 2), (3, 6), (2, 18)]),
        (20, 27, [(20, 3), (7, 9), (3, 27)]),
        (4, 18, [(4, 2), (3, 6), (2, 18)]),
        (3, 18, [(3, 6), (2, 18)]),
        (2, 18, [(2, 18)]),
        (9, 9, [(9, 1), (3, 3), (2, 9)]),
        (8, 2, [(8, 1), (2, 2)]),  # too few epochs for three rounds
        (8, 1, [(8, 1)]),
    ],
)
def test_each_round_has_fewer_students_and_up_to_three_times_the_epochs(
    students: int, epochs: int, expected: list[tuple[int, int]]
) -> None:
    assert rounds_of(students, epochs) == tuple(Round(*pair) for pair in expected)


@given(st.integers(2, 20), st.integers(1, 300), st.integers(1, 40))
def test_the_last_round_ends_after_the_asked_epochs_and_no_round_is_empty(
    students: int, epochs: int, first: int
) -> None:
    rounds = rounds_of(students, epochs, first)
    assert (rounds[0].students, rounds[-1].epochs) == (students, epochs)
    counts, ends = [each.students for each in rounds], [each.epochs for each in rounds]
    assert counts == sorted(counts, reverse=True)
    assert ends == sorted(set(ends))
    assert ends[0] >= min(first, epochs)
    assert counts[-1] >= min(students, 2)
    assert students * ends[0] <= epochs_in_all(rounds) <= students * epochs


def test_equal_students_go_on_in_their_order() -> None:
    assert most_accurate({"large": 0.5, "small": 0.5, "good": 0.7, "bad": 0.1}, 2) == ("good", "large")


@pytest.mark.parametrize(
    ("images", "epochs", "expected"),
    [
        (50_000, None, [(6, 1), (2, 3)]),
        (3000, None, [(6, 2), (2, 6)]),
        (400, None, [(6, 15), (2, 40)]),
        (150, None, [(6, 20), (2, 40)]),  # no more than half of the recipe's epochs
        (10, None, [(6, 20), (2, 40)]),
        (400, 9, [(6, 4), (2, 9)]),
        (50_000, 18, [(6, 2), (3, 6), (2, 18)]),
        (400, 1, [(6, 1)]),
    ],
)
def test_with_fewer_images_students_train_for_more_epochs_before_they_are_compared(
    images: int, epochs: int | None, expected: list[tuple[int, int]]
) -> None:
    assert rounds_for_images(6, images, most_epochs=40, epochs=epochs) == tuple(Round(*pair) for pair in expected)


def test_the_epochs_of_all_students_are_counted() -> None:
    assert epochs_in_all((Round(6, 15), Round(2, 40))) == 6 * 15 + 2 * 25
