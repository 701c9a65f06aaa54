"""Timings of students are kept for one machine and its versions, in the user's cache folder.

<cache>/timings/<key>.json
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from edgevit.artifacts import sha256_of
from edgevit.context import Context
from edgevit.disks import cache_folder, whole_or_not_at_all
from edgevit.selection.records import DeployedForm, Student, Timing

MOST_KEPT = 500
LONGEST_BYTES = 65_536
VALID_S = 30 * 86_400
DISTURBED_VALID_S = 3600  # of a timing that other work disturbed


def kept_timing(student: Student, form: DeployedForm, context: Context) -> Timing | None:
    """The kept timing of a student on its target; None if there is none, or it is too old."""
    file = _file(student, form, context)
    try:
        if file is None or file.stat().st_size > LONGEST_BYTES:
            return None
        age_s = time.time() - file.stat().st_mtime
        timing = Timing.model_validate_json(file.read_bytes())
    except (OSError, ValidationError):
        return None
    return timing if age_s <= (DISTURBED_VALID_S if timing.warnings else VALID_S) else None


def timed(student: Student, form: DeployedForm, context: Context, disturbed_again: bool = False) -> Timing:
    """The kept timing of a student, or else a new one, which is kept. Raises as `time_student` does.

    Args:
        disturbed_again: time again what other work disturbed before.
    """
    timing = kept_timing(student, form, context)
    if timing is None or (disturbed_again and timing.warnings):
        from edgevit.selection.timing import time_student

        timing = time_student(student, form, context)
        keep(student, form, timing, context)
    return timing


def keep(student: Student, form: DeployedForm, timing: Timing, context: Context) -> None:
    """Keep a timing. Where the folder cannot be written, nothing is kept."""
    file = _file(student, form, context)
    if file is None:
        return
    with suppress(OSError):
        with whole_or_not_at_all(file) as part:
            part.write_text(timing.model_dump_json(indent=1) + "\n", encoding="utf-8")
        _remove_oldest(file.parent)


def _file(student: Student, form: DeployedForm, context: Context) -> Path | None:
    folder = cache_folder()
    key = {"student": student.model_dump(mode="json"), "form": form.key(), "machine": form.machine(context)}
    return None if folder is None else folder / "timings" / f"{sha256_of(key)[:40]}.json"


def _remove_oldest(folder: Path) -> None:
    files = sorted(folder.glob("*.json"), key=lambda file: file.stat().st_mtime)
    for file in files[:-MOST_KEPT]:
        file.unlink(missing_ok=True)
