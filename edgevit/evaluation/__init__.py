"""Accuracy of a model: predictions on a labelled data set, and statistics of them."""

from edgevit.evaluation.accuracy import (
    calibration_error,
    confusion_matrix,
    confusions,
    mean_accuracy,
    per_class,
    wilson_interval,
)
from edgevit.evaluation.classify import Predictions, classify
from edgevit.evaluation.corruptions import classify_corrupted, write_corrupted
from edgevit.evaluation.record import write_evaluation

__all__ = [
    "Predictions",
    "calibration_error",
    "classify",
    "classify_corrupted",
    "confusion_matrix",
    "confusions",
    "mean_accuracy",
    "per_class",
    "wilson_interval",
    "write_corrupted",
    "write_evaluation",
]
