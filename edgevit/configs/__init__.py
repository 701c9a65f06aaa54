"""What a recipe may say: frozen records for data sets and stages. Every default lives here and nowhere else."""

from edgevit.configs.datasets import DATASETS, Cifar, DatasetConfig, Digits, FewShot, Glyphs, ImageFolder, Npz, Splits
from edgevit.configs.fields import input_files, references, with_absolute_files
from edgevit.configs.objectives import Objective
from edgevit.configs.stage import Budget, Stage
from edgevit.configs.stages import (
    STAGES,
    Bundle,
    Compile,
    Evaluate,
    Export,
    Profile,
    PseudoLabel,
    Quantize,
    Report,
    StageConfig,
)
from edgevit.configs.training import Augmentation, Distill, Fewshot, Load, Stream, Train, Training

__all__ = [
    "DATASETS",
    "STAGES",
    "Augmentation",
    "Budget",
    "Bundle",
    "Cifar",
    "Compile",
    "DatasetConfig",
    "Digits",
    "Distill",
    "Evaluate",
    "Export",
    "FewShot",
    "Fewshot",
    "Glyphs",
    "ImageFolder",
    "Load",
    "Npz",
    "Objective",
    "Profile",
    "PseudoLabel",
    "Quantize",
    "Report",
    "Splits",
    "Stage",
    "StageConfig",
    "Stream",
    "Train",
    "Training",
    "input_files",
    "references",
    "with_absolute_files",
]
