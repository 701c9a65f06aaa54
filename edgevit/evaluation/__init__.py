"""Accuracy: a session run over a data set, and what its answers are worth."""

from edgevit.evaluation.accuracy import calibration, confusion_matrix, per_class, wilson_interval
from edgevit.evaluation.classify import Predictions, classify
from edgevit.evaluation.record import write_evaluation

__all__ = [
    "Predictions",
    "calibration",
    "classify",
    "confusion_matrix",
    "per_class",
    "wilson_interval",
    "write_evaluation",
]
