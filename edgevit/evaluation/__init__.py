"""Accuracy of a model: predictions on a labelled data set, and statistics of them."""

from edgevit.evaluation.accuracy import (
    Share,
    balanced_accuracy,
    calibration_error,
    confusion_matrix,
    confusions,
    macro_f1,
    mean_accuracy,
    per_class,
    wilson_interval,
)
from edgevit.evaluation.accuracy_record import AccuracyRecord
from edgevit.evaluation.classify import Predictions, classify
from edgevit.evaluation.corruptions import classify_corrupted, write_corrupted
from edgevit.evaluation.record import accuracy_record, write_evaluation

__all__ = [
    "AccuracyRecord",
    "Predictions",
    "Share",
    "accuracy_record",
    "balanced_accuracy",
    "calibration_error",
    "classify",
    "classify_corrupted",
    "confusion_matrix",
    "confusions",
    "macro_f1",
    "mean_accuracy",
    "per_class",
    "wilson_interval",
    "write_corrupted",
    "write_evaluation",
]
