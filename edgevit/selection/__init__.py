"""Students chosen by measurement: the shortlist, their latency on the target, and the choice for a budget."""

from edgevit.selection.candidates import Candidate, shortlist
from edgevit.selection.choice import Choice, most_capable
from edgevit.selection.kept import kept_timing, timed
from edgevit.selection.timing import DeployedForm, Student, Timing

__all__ = [
    "Candidate",
    "Choice",
    "DeployedForm",
    "Student",
    "Timing",
    "kept_timing",
    "most_capable",
    "shortlist",
    "timed",
]
