"""The search for the most capable student, on machines whose latencies are known."""

from __future__ import annotations

import itertools

import pytest

from edgevit.models import catalogue
from edgevit.models.bodies import is_body
from edgevit.selection.candidates import LEAST_SQNR_DB, Candidate, measured, shortlist
from edgevit.selection.choice import MOST_TIMINGS, ROOM, Choice, most_capable, predicted_ms
from edgevit.selection.records import Timing
from tests.known_machine import machine, timing

BUDGETS_MS = (0.5, 1, 2, 3, 5, 7.5, 10, 15, 20, 30, 50)


@pytest.mark.parametrize(("slower", "scatter", "overhead_ms"), [(1, 0, 0), (0.4, 0.1, 0.2), (6, 0.1, 0), (2, 0.2, 1)])
def test_the_best_student_is_found_with_few_timings(slower: float, scatter: float, overhead_ms: float) -> None:
    """Against a search over all candidates: nothing larger within the budget is left out, but for unlucky neighbors."""
    time = machine(slower, scatter, overhead_ms)
    for budget_ms in BUDGETS_MS:
        choice = most_capable(shortlist(), budget_ms, time)
        within = [candidate for candidate in shortlist() if time(candidate).p50_high_ms <= ROOM * budget_ms]
        assert len(choice.timings) <= MOST_TIMINGS
        assert (choice.best is None) == (not within), budget_ms
        if choice.best is not None:
            assert time(choice.best).p50_high_ms <= ROOM * budget_ms
            assert choice.best.macs >= (1 if scatter == 0 else 0.75) * within[-1].macs


def test_nothing_that_was_timed_is_larger_and_within_the_budget() -> None:
    for slower, budget_ms in itertools.product((0.3, 1, 3), BUDGETS_MS):
        choice = most_capable(shortlist(), budget_ms, machine(slower, 0.3))
        for candidate, timed in choice.timings.items():
            if timed.p50_high_ms <= ROOM * budget_ms:
                assert choice.best is not None
                assert candidate.macs <= choice.best.macs


def test_a_budget_that_nothing_meets_names_one_that_can_be_met() -> None:
    choice = most_capable(shortlist(), 0.5, machine(10))
    assert choice.best is None
    assert choice.least_budget_ms == pytest.approx(1.02 * 10 * shortlist()[0].expected_ms / ROOM)
    assert most_capable(shortlist(), choice.least_budget_ms, machine(10)).best == shortlist()[0]


def test_a_file_that_is_too_large_is_passed_over() -> None:
    def time(candidate: Candidate) -> Timing:
        return timing(candidate.expected_ms, 20 * 2**20 if candidate.model == "mobilenetv4_hybrid_medium" else 2**20)

    choice = most_capable(shortlist(), 10, time, size_mib=5)
    assert choice.best is not None
    assert choice.best.model != "mobilenetv4_hybrid_medium"
    assert choice.best == max(
        (
            candidate
            for candidate in shortlist()
            if candidate.model not in ("mobilenetv4_hybrid_medium",) and 1.02 * candidate.expected_ms <= 9
        ),
        key=lambda candidate: candidate.macs,
    )


def test_the_shortlist_rises_in_macs_and_time() -> None:
    candidates = shortlist()
    assert len(candidates) >= 15
    for smaller, larger in itertools.pairwise(candidates):
        assert smaller.macs < larger.macs
        assert smaller.expected_ms < larger.expected_ms
    rows = {row.name: row for row in measured()}
    assert all((rows[candidate.model].sqnr_db or 99) >= LEAST_SQNR_DB for candidate in candidates)
    assert not any(rows[candidate.model].kept_float for candidate in candidates)


def test_every_model_of_the_catalogue_but_the_bodies_was_measured() -> None:
    names = {entry.name for entry in catalogue.read()}
    assert {row.name for row in measured() if not is_body(row.name)} == {name for name in names if not is_body(name)}


def test_a_prediction_between_two_timings_lies_between_their_ratios() -> None:
    small, middle, large = (Candidate(model="m", image_size=1, macs=n, expected_ms=float(n)) for n in (1, 10, 100))
    assert predicted_ms(middle, {}) == 10
    assert predicted_ms(middle, {small: timing(2 / 1.02)}) == pytest.approx(20)
    assert predicted_ms(middle, {small: timing(2 / 1.02), large: timing(400 / 1.02)}) == pytest.approx(30)
    assert predicted_ms(large, {small: timing(2 / 1.02), middle: timing(10 / 1.02)}) == pytest.approx(100)


def test_the_next_larger_is_the_nearest_above() -> None:
    a, b, c = shortlist()[3:6]
    choice = Choice(5, None, a, {c: timing(9), a: timing(3), b: timing(6)})
    assert choice.next_larger() == b
