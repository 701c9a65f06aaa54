"""Quantization-aware training: distillation of a student under fake quantization."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
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
from edgevit.exporting import Exported, onnx_from_module
from edgevit.model_file import AS_WRITTEN
from edgevit.models.agreement import LARGEST_DEVIATION, deviation
from edgevit.models.checkpoints import starting_model
from edgevit.models.creation import BuiltModel, folded_model
from edgevit.models.distillation_token import DistillationTokenModel
from edgevit.models.folding import BatchNorm
from edgevit.progress import Progress
from edgevit.quantization import CalibratedModel, calibrated, calibration_doubts, choose_images, image_batches
from edgevit.quantization.calibration import Batches
from edgevit.quantization.fake_quantization import FakeQuantization
from edgevit.quantization.module_smoothing import smooth_module
from edgevit.quantization.sensitivity import SensitivityAnalysis
from edgevit.quantization.smoothing import AUTOMATIC, GAIN_DB, comparison_text, outlier_channels, outliers_text
from edgevit.runtimes.sessions import file_session
from edgevit.training.distillation.teacher_from_config import ConfiguredTeacher
from edgevit.training.loop.setup import TrainingSetup, opened_streams, taught


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
    found = _smoothed_if_closer(_Student(student, exported, config, calibrate), held_out, context.progress)
    calibration, paths = found.ranges, found.exported.layers
    layers = {paths[layer.output]: layer for layer in calibration.layers() if layer.output in paths}
    _mention_others([layer.output for layer in calibration.layers() if layer.output not in paths], config, context)
    if not layers:
        raise ArtifactError("no layer of this model can be quantized in training", where=config.id)
    return found.built, FakeQuantization(layers, calibration.ranges, calibration.dialect, config.learn_ranges)


@dataclass(frozen=True)
class _Student:
    """A student and its export.

    Attributes:
        calibrate: gives the calibration images, equal at each call.
    """

    built: BuiltModel
    exported: Exported
    config: Qat
    calibrate: Batches

    @cached_property
    def ranges(self) -> CalibratedModel:
        """The graph with the ranges of the calibration images."""
        config = self.config
        return calibrated(
            self.exported.model, self.calibrate, config.calibrator, config.runtime, usable_cpus(), config.id
        )

    def outlier_channels(self) -> dict[str, float]:
        return outlier_channels(self.exported.model, self.calibrate, usable_cpus())

    def smoothed(self, strength: float) -> _Student:
        """A copy of equal function with smoothed channels; the student itself if the function would change."""
        built, exported = self.built._replace(module=copy.deepcopy(self.built.module)), self.exported
        smooth_module(
            built.module, exported.model, exported.layers, self.calibrate, strength, usable_cpus(), self.config.id
        )
        if not deviation(built.module, self.built.module, built.preprocess) <= LARGEST_DEVIATION:
            return self
        exported = onnx_from_module(built.module, exported.spec, OPSET, exported.dynamic_batch, keep_branches=True)
        return replace(self, built=built, exported=exported)

    def sqnr_db(self, reference: Exported, images: Sequence[NDArray[np.float32]]) -> float:
        """The SQNR of the student in INT8 against a float graph of the same function."""
        with TemporaryDirectory() as folder:
            file = Path(folder) / "model.onnx"
            reference.write(file)
            session = file_session(file, reference.spec, AS_WRITTEN, usable_cpus())
            return SensitivityAnalysis(session, images, usable_cpus()).sqnr_db(self.ranges)


def _smoothed_if_closer(student: _Student, held_out: Batches, progress: Progress) -> _Student:
    """The student with smoothed channels if its stage asks for that, or if it has outlier channels and INT8 gains."""
    config = student.config
    if config.smoothquant is not None:
        return student.smoothed(config.smoothquant) if config.smoothquant else student
    outliers = student.outlier_channels()
    if not outliers:
        return student
    smooth, images = student.smoothed(AUTOMATIC), list(held_out())
    before_db, after_db = (one.sqnr_db(student.exported, images) for one in (student, smooth))
    is_used = after_db >= before_db + GAIN_DB
    progress.say(f"    {config.id}: {outliers_text(outliers)}")
    progress.say(f"    {config.id}: {comparison_text(before_db, after_db, is_used)}")
    return smooth if is_used else student


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
