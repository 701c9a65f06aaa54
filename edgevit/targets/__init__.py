"""Targets: this machine's CPU and GPU. Importing this loads neither torch nor onnxruntime."""

from edgevit.model_file import TargetInfo
from edgevit.targets.base import Target, compare_speed
from edgevit.targets.local import TARGETS, target_for, target_info

__all__ = ["TARGETS", "Target", "TargetInfo", "compare_speed", "target_for", "target_info"]
