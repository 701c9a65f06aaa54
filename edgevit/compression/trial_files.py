"""The ONNX file of a model that is timed during a search."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from edgevit.artifacts import Artifact, IOSpec
from edgevit.configs import OPSET
from edgevit.exporting import onnx_from_module
from edgevit.exporting.float16 import in_float16
from edgevit.graphs.files import artifact_from_onnx, write_onnx
from edgevit.models.creation import BuiltModel
from edgevit.models.folding import Folded
from edgevit.models.timm_models import default_class_names
from edgevit.progress import Progress

FloatPrecision = Literal["float32", "float16"]


def onnx_from_model(
    built: BuiltModel, file: Path, precision: FloatPrecision, where: str, progress: Progress
) -> Artifact:
    """Export a model in float32 or float16, with an open batch size where that can be exported.

    Args:
        where: the stage's id, for errors and for a line on tensors that stay float32.

    Raises:
        ArtifactError: the model cannot be exported, or not in float16.
    """
    spec = IOSpec.for_classifier(built.preprocess, default_class_names(built.description.num_classes))
    is_folded = built.description.change(Folded) is not None
    exported = onnx_from_module(built.module, spec, OPSET, dynamic_batch=True, keep_branches=is_folded)
    model = in_float16(exported.model, exported.spec, where, progress) if precision == "float16" else exported.model
    write_onnx(model, file, exported.spec)
    return artifact_from_onnx(file)
