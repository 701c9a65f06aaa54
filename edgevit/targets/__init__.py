"""Targets: machines that run models, here and over SSH. Importing this loads neither torch nor onnxruntime."""

from edgevit.model_file import TargetInfo
from edgevit.targets.base import Target, compare_speed
from edgevit.targets.by_name import target_for, target_info

__all__ = ["Target", "TargetInfo", "compare_speed", "target_for", "target_info"]
