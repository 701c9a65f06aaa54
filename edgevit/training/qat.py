"""Quantization-aware training: distillation of a student under fake quantization."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edgevit.artifacts import Artifact, IOSpec
from edgevit.configs import HEAD_TEACHERS, OPSET, Qat, idle_head
from edgevit.context import Context, usable_cpus
from edgevit.data import open_dataset
from edgevit.errors import ArtifactError, RecipeError, listed
from edgevit.exporting import onnx_from_module
from edgevit.models.checkpoints import starting_model
from edgevit.models.creation import BuiltModel, folded_model
from edgevit.models.distillation_token import DistillationTokenModel
from edgevit.models.folding import BatchNorm
from edgevit.quantization import calibrated, calibration_doubts, choose_images, image_batches
from edgevit.quantization.fake_quantization import FakeQuantization
from edgevit.quantization.smoothing import outlier_channels, outliers_text
from edgevit.training.distillation.teacher_from_config import ConfiguredTeacher
from edgevit.training.loop.setup import TrainingSetup, opened_streams, taught


def quantization_aware_setup(
    config: Qat, inputs: Mapping[str, Artifact], context: Context
) -> tuple[TrainingSetup, ConfiguredTeacher, BuiltModel]:
    """The setup to train a folded copy of `init` under fake quantization; its teacher; and the folded copy in float.

    The student has the classes of `init`, not of the streams. Norms that cannot be folded are frozen.

    Raises:
        RecipeError: batch norm cannot be folded, or no term trains a head that gives the student's logits.
        ArtifactError: the model cannot be exported, or none of its layers can be quantized.
    """
    classes = inputs["init"].io.classes
    start = starting_model(None, inputs["init"], classes, None, {}, drop_rates=config.model_rates)
    _check_heads_learn(start, config)
    student = folded_model(start)
    rounding = student._replace(module=copy.deepcopy(student.module))
    _freeze_norms(rounding.module)
    unseen = fake_quantization(student, config, inputs, context).apply(rounding.module, _image(student))
    if unseen:
        context.progress.say(
            f"    {config.id}: other nodes read the inputs of {len(unseen)} layers, too; the INT8 file rounds these "
            f"inputs for all readers, but training rounds them only for the layers: {listed(unseen)}"
        )
    setup, teacher = taught(rounding, classes, opened_streams(config, inputs), config, inputs, context)
    return setup, teacher, student


def fake_quantization(
    student: BuiltModel, config: Qat, inputs: Mapping[str, Artifact], context: Context
) -> FakeQuantization:
    """The student's quantized layers and calibrated ranges, as in post-training quantization.

    The student is exported and its ONNX file is calibrated, so that QAT and `quantize` choose equal layers and ranges.
    """
    spec = IOSpec.for_classifier(student.preprocess, inputs["init"].io.classes)
    exported = onnx_from_module(student.module, spec, OPSET, dynamic_batch=True, keep_branches=True)
    dataset = open_dataset(inputs["calibration"])
    chosen = choose_images(dataset, config.calibration_images, config.seed, context.progress)
    calibration_doubts(dataset, chosen, exported.spec, config.id, context.progress)
    batches = image_batches(dataset, chosen.calibration, exported.spec, context.progress, "calibrate")
    calibration = calibrated(exported.model, batches, config.calibrator, config.runtime, usable_cpus(), config.id)
    _mention_outliers(outlier_channels(exported.model, batches, usable_cpus()), config, context)
    paths = exported.layers
    layers = {paths[layer.output]: layer for layer in calibration.layers() if layer.output in paths}
    _mention_others([layer.output for layer in calibration.layers() if layer.output not in paths], config, context)
    if not layers:
        raise ArtifactError("no layer of this model can be quantized in training", where=config.id)
    return FakeQuantization(layers, calibration.ranges, calibration.dialect, config.learn_ranges)


def _mention_others(tensors: list[str], config: Qat, context: Context) -> None:
    if tensors:
        context.progress.say(
            f"    {config.id}: {len(tensors)} matrix products or convolutions use a weight that belongs to no layer; "
            f"they are trained in float, and quantize calibrates them: {listed(tensors)}"
        )


def _mention_outliers(ratios: Mapping[str, float], config: Qat, context: Context) -> None:
    if ratios:
        context.progress.say(
            f"    {config.id}: {outliers_text(ratios)}; INT8 rounds the other channels coarsely. qat does not smooth; "
            "quantize without qat tries smoothquant. Compare the two files."
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
