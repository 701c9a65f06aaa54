"""Preparation of a float graph for quantization: smoothing, calibration, and the layers that stay float."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from edgevit.configs import Quantize
from edgevit.errors import listed
from edgevit.graphs.metadata import TensorRanges, trained_ranges_in
from edgevit.graphs.norms import with_fused_norms
from edgevit.progress import Progress
from edgevit.quantization.bias_correction import BiasCorrection
from edgevit.quantization.calibration import Batches
from edgevit.quantization.dialects import dialect_of
from edgevit.quantization.gate import Closeness, Validation, limit_text
from edgevit.quantization.ptq import CalibratedModel, calibrated
from edgevit.quantization.sensitivity import Sensitivity, SensitivityAnalysis
from edgevit.quantization.smoothing import (
    AUTOMATIC,
    GAIN_DB,
    comparison_text,
    outlier_channels,
    outliers_text,
    smoothed,
)
from edgevit.runtimes.base import HostSession
from edgevit.runtimes.float16_range import beyond_float16_text


def prepared(
    source: ModelProto,
    reference: HostSession,
    calibration: Batches,
    images: Sequence[NDArray[np.float32]],
    config: Quantize,
    correction: BiasCorrection | None,
    threads: int,
    progress: Progress,
    validation: Validation | None = None,
) -> tuple[CalibratedModel, list[Sensitivity]]:
    """Fuse norms, smooth and calibrate; if a gate refuses the quantized model, keep some layers float.

    Args:
        reference: a session of the source model.
        calibration: gives the calibration batches, equal at each call.
        images: other batches, for the comparison with float.
        correction: of biases; None if they stay as they are.
        validation: images on which answers are compared, too; None for no images.

    Returns:
        The graph with its ranges, and the sensitivity of each layer if it was measured.

    Raises:
        ArtifactError: the graph is quantized already, its opset is too old, there is nothing to quantize or smooth, or
            there are no trained ranges.
        DataError: there are no calibration images, or activations that are not finite.
    """
    if dialect_of(config.runtime, config.precision).floats == "float16":
        source = with_fused_norms(source)
    if config.smoothquant:
        source = smoothed(source, calibration, config.smoothquant, threads, config.id)
    ready = _calibrated(source, calibration, config, threads, progress)
    analysis = SensitivityAnalysis(reference, images, threads, correction, validation)
    whole = None
    if config.smooths_outliers:
        ready, whole = _closer_if_smoothed(ready, source, analysis, calibration, config, threads, progress)
    if ready.beyond_float16:
        progress.say(f"    {config.id}: {beyond_float16_text(ready.beyond_float16, 'the calibration images')}")
    return _close_enough(ready, whole, analysis, config, progress)


def _closer_if_smoothed(
    ready: CalibratedModel,
    source: ModelProto,
    analysis: SensitivityAnalysis,
    calibration: Batches,
    config: Quantize,
    threads: int,
    progress: Progress,
) -> tuple[CalibratedModel, Closeness | None]:
    """The smoothed model if norms have outlier channels and it is closer to float, else the model; its closeness.

    The closeness is None if there are no outlier channels: nothing is compared then.
    """
    outliers = outlier_channels(source, calibration, threads)
    if not outliers:
        return ready, None
    smooth = _calibrated(
        smoothed(source, calibration, AUTOMATIC, threads, config.id), calibration, config, threads, progress
    )
    before, after = (analysis.closeness(analysis.as_shipped(model), config.floor_db) for model in (ready, smooth))
    is_used = after.gains_on(before, GAIN_DB)
    progress.say(f"    {config.id}: {outliers_text(outliers)}")
    progress.say(f"    {config.id}: {comparison_text(before.sqnr_db, after.sqnr_db, is_used)}")
    return (smooth, after) if is_used else (ready, before)


def _calibrated(
    source: ModelProto, calibration: Batches, config: Quantize, threads: int, progress: Progress
) -> CalibratedModel:
    """The model with the ranges of the calibration images, or with trained ranges."""
    if config.calibrator != "trained":
        return calibrated(
            source,
            calibration,
            config.calibrator,
            config.runtime,
            threads,
            config.id,
            precision=config.precision,
            reduce_range=config.reduce_range,
        )
    trained = trained_ranges_in(source, config.id)
    ready = calibrated(
        source,
        calibration,
        "minmax",
        config.runtime,
        threads,
        config.id,
        trained.tensors,
        reduce_range=config.reduce_range or trained.reduce_range,
    )
    _mention_untrained(trained, ready, config, progress)
    return ready


def _mention_untrained(trained: TensorRanges, ready: CalibratedModel, config: Quantize, progress: Progress) -> None:
    if trained.runtime != config.runtime:
        progress.say(
            f"    {config.id}: the ranges were trained for {trained.runtime}, which rounds to other integers; a qat "
            f"stage with runtime: {config.runtime} may keep more accuracy"
        )
    if config.reduce_range and not trained.reduce_range:
        progress.say(
            f"    {config.id}: the weights were trained for 8 bits and get 7; a qat stage with reduce_range: true may "
            "keep more accuracy"
        )
    calibrated_layers = [layer.output for layer in ready.layers() if layer.input not in trained.tensors]
    if calibrated_layers:
        progress.say(
            f"    {config.id}: {len(calibrated_layers)} of {len(ready.layers())} products and convolutions have no "
            f"trained range and are calibrated: {listed(calibrated_layers)}"
        )


def _close_enough(
    ready: CalibratedModel,
    whole: Closeness | None,
    analysis: SensitivityAnalysis,
    config: Quantize,
    progress: Progress,
) -> tuple[CalibratedModel, list[Sensitivity]]:
    """The model with layers in float if a gate refuses it whole, and the sensitivities if they were measured.

    A model with trained ranges is quantized whole: it was trained with rounding, so its float outputs are no reference.

    Args:
        whole: the closeness of the model, as it ships; None if it was not measured.
    """
    is_trained = config.calibrator == "trained"
    if is_trained and not config.sensitivity:
        return ready, []
    if whole is None and not is_trained:
        whole = analysis.closeness(analysis.as_shipped(ready), config.floor_db)
    is_close = whole is None or not whole.refused_by
    if is_close and not config.sensitivity:
        return ready, []
    sensitivities = analysis.sensitivities(ready, progress)
    if whole is None or is_close:
        return ready, sensitivities
    mixed = analysis.within(ready, whole, sensitivities)
    if mixed is not None:
        progress.say(
            f"    {len(mixed.kept_float)} of {len(sensitivities)} layers stay float: with all layers in "
            f"{config.precision} {_reason(whole)}"
        )
        kept = [layer.node for layer in sensitivities if layer.node in mixed.kept_float]
        progress.say(f"    in float, the layers that cost most first: {listed(kept)}")
    return mixed or ready, sensitivities


def _reason(whole: Closeness) -> str:
    """The measurement of the whole model that a gate refuses, and the gate's limit."""
    if whole.change is None:
        return f"the SQNR is {whole.sqnr_db:.1f} dB, and min_sqnr_db is {whole.floor_db:g}"
    return f"{whole.change.sentence()}, and max_top1_drop is {limit_text(whole.change.limit)}"
