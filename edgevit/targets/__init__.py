"""Targets: machines that run models, here and over SSH. Importing this loads neither torch nor onnxruntime."""

from edgevit.model_file import TargetInfo
from edgevit.targets.base import Target, check_is_measured, compare_speed, invalid_choice, valid_race
from edgevit.targets.by_name import target_for, target_info

__all__ = [
    "Target",
    "TargetInfo",
    "check_is_measured",
    "compare_speed",
    "invalid_choice",
    "target_for",
    "target_info",
    "valid_race",
]
