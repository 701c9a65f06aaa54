"""Quantization-aware training: distillation of a student under fake quantization."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgevit.artifacts import Artifact, IOSpec
from edgevit.configs import HEAD_TEACHERS, OPSET, Qat, idle_head
from edgevit.context import Context, usable_cpus
from edgevit.data import open_dataset
from edgevit.errors import ArtifactError, RecipeError, listed
from edgevit.exporting import Exported, norms_by_output, onnx_from_module
from edgevit.graphs.norms import with_fused_norms
from edgevit.model_file import AS_WRITTEN
from edgevit.models.agreement import LARGEST_DEVIATION, deviation
from edgevit.models.checkpoints import starting_model
from edgevit.models.creation import BuiltModel, folded_model
from edgevit.models.distillation_token import DistillationTokenModel
from edgevit.models.folding import BatchNorm
from edgevit.models.timm_models import classifier_prefixes
from edgevit.progress import Progress
from edgevit.quantization import CalibratedModel, calibrated, calibration_doubts, choose_images, image_batches
from edgevit.quantization.calibration import Batches
from edgevit.quantization.dialects import dialect_of
from edgevit.quantization.fake_quantization import FakeQuantization
from edgevit.quantization.module_smoothing import smooth_module
from edgevit.quantization.overflow import overflows_here, reduced_text
from edgevit.quantization.sensitivity import SensitivityAnalysis
from edgevit.quantization.smoothing import (
    AUTOMATIC,
    GAIN_DB,
    LEAVE_OUT,
    comparison_text,
    outlier_channels,
    outliers_text,
)
from edgevit.runtimes.sessions import file_session
from edgevit.training.decisions import keep_decision, kept_decision
from edgevit.training.distillation.teacher_from_config import ConfiguredTeacher
from edgevit.training.distributed import processes
from edgevit.training.loop.setup import TrainingSetup, opened_streams, taught

# In the stage's working folder: whether the student is smoothed, and whether weights have 7 bits
SMOOTHED, REDUCED = "smoothed", "reduced"  # names of decisions


def quantization_aware_setup(
    config: Qat, inputs: Mapping[str, Artifact], context: Context
) -> tuple[TrainingSetup, ConfiguredTeacher, BuiltModel]:
    """The setup to train a folded copy of `init` under fake quantization; its teacher; and the folded copy in float.

    The copy is smoothed if `config` asks for it, or if its layer norms have outlier channels and INT8 gains by it.

    The student has the classes of `init`, not of the streams. Norms that cannot be folded are frozen.

    Raises:
        RecipeError: batch norm cannot be folded, or no term trains a head that gives the student's logits.
        ArtifactError: the model cannot be exported, or none of its layers can be quantized.
    """
    classes = inputs["init"].io.classes
    start = starting_model(None, inputs["init"], classes, None, {}, drop_rates=config.model_rates)
    _check_heads_learn(start, config)
    student, quantization = fake_quantization(folded_model(start), config, inputs, context)
    rounding = student._replace(module=copy.deepcopy(student.module))
    _freeze_norms(rounding.module)
    unseen = quantization.apply(rounding.module, _image(student))
    if unseen:
        context.progress.say(
            f"    {config.id}: other nodes read the inputs of {len(unseen)} layers, too; the INT8 file rounds these "
            f"inputs for all readers, but training rounds them only for the layers: {listed(unseen)}"
        )
    setup, teacher = taught(rounding, classes, opened_streams(config, inputs), config, inputs, context)
    return setup, teacher, student


def fake_quantization(
    student: BuiltModel, config: Qat, inputs: Mapping[str, Artifact], context: Context
) -> tuple[BuiltModel, FakeQuantization]:
    """The student, smoothed or as it is, and its quantized layers and calibrated ranges, as `quantize` finds them.

    The student is exported and its ONNX file is calibrated, so that QAT and `quantize` choose equal layers and ranges.

    Raises:
        ArtifactError: the model cannot be exported, none of its layers can be quantized, or the stage asks for
            smoothing and no norm can be smoothed.
    """
    spec = IOSpec.for_classifier(student.preprocess, inputs["init"].io.classes)
    exported = onnx_from_module(student.module, spec, OPSET, dynamic_batch=True, keep_branches=True)
    dataset = open_dataset(inputs["calibration"])
    chosen = choose_images(dataset, config.calibration_images, config.seed, context.progress)
    calibration_doubts(dataset, chosen, exported.spec, config.id, context.progress)
    calibrate, held_out = (
        image_batches(dataset, positions, exported.spec, context.progress, title)
        for positions, title in ((chosen.calibration, "calibrate"), (chosen.held_out, "compare with float"))
    )
    rounded = _smoothed_as_asked(_ExportedStudent(student, exported, config, calibrate), held_out, context)
    calibration, paths = rounded.calibrated, rounded.exported.layers
    layers = {paths[layer.output]: layer for layer in calibration.layers() if layer.output in paths}
    _mention_others([layer.output for layer in calibration.layers() if layer.output not in paths], config, context)
    if not layers:
        raise ArtifactError("no layer of this model can be quantized in training", where=config.id)
    largest_weight = calibration.dialect.largest_weight
    return rounded.built, FakeQuantization(
        layers, calibration.ranges, calibration.integers, config.learn_ranges, largest_weight
    )


@dataclass(frozen=True)
class _ExportedStudent:
    """A student and its export.

    Attributes:
        calibrate: gives the calibration images, equal at each call.
    """

    built: BuiltModel
    exported: Exported
    config: Qat
    calibrate: Batches

    @cached_property
    def calibrated(self) -> CalibratedModel:
        """The graph with the ranges of the calibration images."""
        config, model = self.config, self.exported.model
        if dialect_of(config.runtime, "int8").floats == "float16":
            model = with_fused_norms(model)
        return calibrated(
            model,
            self.calibrate,
            config.calibrator,
            config.runtime,
            usable_cpus(),
            config.id,
            reduce_range=config.reduce_range,
        )

    @cached_property
    def outlier_channels(self) -> dict[str, float]:
        return outlier_channels(self.exported.model, self.calibrate, usable_cpus())

    @cached_property
    def smoothed_by_itself(self) -> _ExportedStudent:
        """The student as it is smoothed if it has outlier channels and INT8 gains."""
        return self.smoothed(AUTOMATIC)

    def smoothed(self, strength: float) -> _ExportedStudent:
        """A copy with smoothed channels, of equal function; the student itself if no norm can be smoothed.

        The classifiers and the norm before them stay as they are, so that the embedding stays, too.
        """
        built, exported = self.built._replace(module=copy.deepcopy(self.built.module)), self.exported
        heads = classifier_prefixes(built.module)
        paths = norms_by_output(exported.model, built.module, _image(built))
        paths |= {output: path for output, path in exported.layers.items() if not f"{path}.".startswith(heads)}
        norms = smooth_module(
            built.module, exported.model, paths, self.calibrate, strength, usable_cpus(), self.config.id
        )
        if not norms or deviation(built.module, self.built.module, built.preprocess) > LARGEST_DEVIATION:
            return self
        exported = onnx_from_module(built.module, exported.spec, OPSET, exported.dynamic_batch, keep_branches=True)
        return replace(self, built=built, exported=exported)


def _smoothed_as_asked(student: _ExportedStudent, held_out: Batches, context: Context) -> _ExportedStudent:
    """The student with smoothed channels if its stage asks for that, or if it has outlier channels and INT8 gains.

    A training that goes on keeps the decision: other ranges would not fit its scales.
    """
    config = student.config
    if config.smoothquant is not None:
        smooth = student.smoothed(config.smoothquant) if config.smoothquant else student
        if config.smoothquant and smooth is student:
            raise ArtifactError("no layer norm of this model can be smoothed", where=config.id, next=LEAVE_OUT)
        return smooth
    is_closer = _decided(
        SMOOTHED,
        lambda: bool(student.outlier_channels) and _gains(student, list(held_out()), context.progress),
        context,
    )
    return student.smoothed_by_itself if is_closer else student


def _decided(name: str, decide: Callable[[], bool], context: Context) -> bool:
    """A decision of rank 0, which all ranks take, and which a training that goes on keeps."""

    def kept_or_new() -> bool:
        if (kept := kept_decision(name, (False, True), context)) is not None:
            return kept
        decision = decide()
        keep_decision(name, decision, context)
        return decision

    return processes.decided_by_rank_0(kept_or_new, torch.device(context.device))


def with_decided_range(config: Qat, context: Context) -> Qat:
    """The stage with its `reduce_range` decided: where products of 8 bits overflow on this machine's CPU."""
    if config.reduce_range is not None:
        return config
    is_reduced = _decided(REDUCED, lambda: overflows_here(config.runtime), context)
    if is_reduced and processes.rank() == 0:
        context.progress.say(f"    {config.id}: {reduced_text('this CPU')}")
    return config.model_copy(update={"reduce_range": is_reduced})


def _gains(student: _ExportedStudent, images: Sequence[NDArray[np.float32]], progress: Progress) -> bool:
    """Whether INT8 is closer to float if the student is smoothed; both SQNRs are said."""
    config, exported = student.config, student.exported
    with TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        exported.write(file)
        analysis = SensitivityAnalysis(
            file_session(file, exported.spec, AS_WRITTEN, usable_cpus()), images, usable_cpus()
        )
        before_db, after_db = (
            analysis.sqnr_db(replace(candidate.calibrated, keeps_sums=False))  # training rounds to the nearest
            for candidate in (student, student.smoothed_by_itself)
        )
    is_used = after_db >= before_db + GAIN_DB
    progress.say(f"    {config.id}: {outliers_text(student.outlier_channels)}")
    progress.say(f"    {config.id}: {comparison_text(before_db, after_db, is_used)}")
    return is_used


def _mention_others(tensors: list[str], config: Qat, context: Context) -> None:
    if tensors:
        context.progress.say(
            f"    {config.id}: {len(tensors)} matrix products or convolutions use a weight that belongs to no layer; "
            f"they are trained in float, and quantize calibrates them: {listed(tensors)}"
        )


def _image(student: BuiltModel) -> Tensor:
    return torch.zeros(1, 3, student.preprocess.height, student.preprocess.width)


def _freeze_norms(module: nn.Module) -> None:
    for norm in module.modules():
        if isinstance(norm, BatchNorm):
            norm.requires_grad_(False)


def _check_heads_learn(start: BuiltModel, config: Qat) -> None:
    if not isinstance(start.module, DistillationTokenModel):
        return
    idle = idle_head(config.objectives, start.module.inference)
    if idle is not None:
        raise RecipeError(
            f"the {idle} head of this distillation-token student would learn nothing",
            where=config.id,
            next=f"add {HEAD_TEACHERS[idle]} to its objectives",
        )
