"""Forms of a model for TensorRT, as quantize tries them on a board."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from edgevit.configs import Quantize
from edgevit.configs.runtimes import TENSORRT
from edgevit.context import Context
from edgevit.errors import ArtifactError
from edgevit.quantization.candidates import Candidate, CandidateWriter
from edgevit.quantization.ptq import CalibratedModel
from edgevit.quantization.sensitivity import Sensitivity, sensitivity_table
from edgevit.targets import Target
from edgevit.targets.boards.table import has_fp8

Prepare = Callable[..., tuple[CalibratedModel, list[Sensitivity]]]  # `preparation.prepared` of a config


def engine_forms(
    config: Quantize, writer: CandidateWriter, target: Target, prepare: Prepare, context: Context
) -> Iterator[Candidate]:
    """The forms to try on a board: first float16, then each placement of INT8, then of FP8 if the GPU has it."""
    yield writer.float_candidate()
    yield from writer.candidates()
    if config.precision != "int8" or not _has_fp8(target):
        return
    float8 = {"precision": "float8", "calibrator": "minmax", "smoothquant": None, "sensitivity": False}
    own = config.model_copy(update=float8)
    try:
        calibrated, sensitivities = prepare(own, correction=None)
    except ArtifactError as error:
        context.progress.say(f"    {config.id}: no form in float8: {error.what}")
        return
    table = sensitivity_table(calibrated, sensitivities)
    in_float8 = replace(writer, calibrated=calibrated, floor_db=own.floor_db, sensitivity=table, correction=None)
    yield from in_float8.candidates()


def _has_fp8(target: Target) -> bool:
    return bool(has_fp8(target.describe(TENSORRT.name).hardware["compute_capability"]))
