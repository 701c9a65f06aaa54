"""Timings of students on a machine of known speed, kept beforehand: nothing has to be timed then."""

from __future__ import annotations

from collections.abc import Callable

from edgevit.actions.student_choice import deployed_form, sizes_of_bodies
from edgevit.context import Context
from edgevit.selection import kept
from edgevit.selection.candidates import Candidate, shortlist
from edgevit.selection.records import DeployedForm, Student, Timing


def timing(p50_ms: float, size_bytes: int = 2**20) -> Timing:
    return Timing(
        macs=1,
        params=1,
        size_bytes=size_bytes,
        form="int8 all",
        p50_ms=p50_ms,
        p50_low_ms=0.98 * p50_ms,
        p50_high_ms=1.02 * p50_ms,
    )


def machine(slower: float, scatter: float = 0.0, overhead_ms: float = 0.0) -> Callable[[Candidate], Timing]:
    """A machine that is `slower` times as slow as the measured one, with a scatter that depends on the model."""

    def time(candidate: Candidate) -> Timing:
        luck = 1 + scatter * ((sum(map(ord, str(candidate))) % 21) / 10 - 1)
        return timing(overhead_ms + slower * luck * candidate.expected_ms)

    return time


def keep_timings(num_classes: int, form: DeployedForm | None = None) -> None:
    """Keep the timing of every student of the shortlist and of every body, as fast as on the measured machine.

    Args:
        form: the form that is timed; that of `init` if None.
    """
    for candidate in (*shortlist(), *sizes_of_bodies()):
        student = Student(model=candidate.model, image_size=candidate.image_size, num_classes=num_classes)
        kept.keep(student, form or deployed_form("local-cpu"), machine(1)(candidate), Context())
