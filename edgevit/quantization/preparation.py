"""A float graph, made ready to be written with integers: smoothed, its ranges known, what suffers most left out."""

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
from edgevit.quantization.ptq import CalibratedModel, calibrated
from edgevit.quantization.sensitivity import LayerTrial, Sensitivity
from edgevit.quantization.smoothing import smoothed
from edgevit.runtimes.base import HostSession
from edgevit.runtimes.float16_range import said


def prepared(
    source: ModelProto,
    reference: HostSession,
    calibration: Batches,
    images: Sequence[NDArray[np.float32]],
    config: Quantize,
    correction: BiasCorrection | None,
    threads: int,
    progress: Progress,
) -> tuple[CalibratedModel, list[Sensitivity]]:
    """Fuse norms, smooth, calibrate and, where all layers quantized are too far from float, leave out the costliest.

    Args:
        reference: the same model in a session.
        calibration: gives the calibration batches, the same at each call.
        images: other batches, to judge closeness on.
        correction: of biases, where they will be corrected.

    Returns:
        The graph with its ranges, and what each layer costs where that was measured.

    Raises:
        ArtifactError: the graph is quantized already, too old, has nothing to quantize or smooth, or no trained ranges.
        DataError: there are no calibration images, or activations that are not finite.
    """
    if dialect_of(config.runtime, config.precision).floats == "float16":
        source = with_fused_norms(source)
    if config.smoothquant is not None:
        source = smoothed(source, calibration, config.smoothquant, threads, config.id)
    ready = _calibrated(source, calibration, config, threads, progress)
    if ready.beyond_float16:
        progress.say(f"    {config.id}: {said(ready.beyond_float16, 'the calibration images')}")
    return _close_enough(ready, reference, images, config, correction, threads, progress)


def _calibrated(
    source: ModelProto, calibration: Batches, config: Quantize, threads: int, progress: Progress
) -> CalibratedModel:
    """With ranges of the calibration images, or with those that were trained."""
    if config.calibrator != "trained":
        return calibrated(
            source, calibration, config.calibrator, config.runtime, threads, config.id, precision=config.precision
        )
    trained = trained_ranges_in(source, config.id)
    ready = calibrated(source, calibration, "minmax", config.runtime, threads, config.id, trained.tensors)
    _mention_untrained(trained, ready, config, progress)
    return ready


def _mention_untrained(trained: TensorRanges, found: CalibratedModel, config: Quantize, progress: Progress) -> None:
    if trained.runtime != config.runtime:
        progress.say(
            f"    {config.id}: these ranges were trained for {trained.runtime}, whose integers are others; a qat stage "
            f"with runtime: {config.runtime} may keep more accuracy"
        )
    calibrated_layers = [layer.made for layer in found.layers() if layer.entering not in trained.tensors]
    if calibrated_layers:
        progress.say(
            f"    {config.id}: {len(calibrated_layers)} of {len(found.layers())} products and convolutions have no "
            f"trained range, and are calibrated: {listed(calibrated_layers)}"
        )


def _close_enough(
    ready: CalibratedModel,
    reference: HostSession,
    images: Sequence[NDArray[np.float32]],
    config: Quantize,
    correction: BiasCorrection | None,
    threads: int,
    progress: Progress,
) -> tuple[CalibratedModel, list[Sensitivity]]:
    """The model, with its costliest layers in float where it would be too far from float; and what each layer costs.

    What was trained to be rounded is at its best rounded, however far that is from what it computes in float.
    """
    is_trained = config.calibrator == "trained"
    if is_trained and not config.sensitivity:
        return ready, []
    trial = LayerTrial(ready, reference, images, threads, correction)
    db = trial.sqnr_db(trial.as_shipped(ready))
    is_close = is_trained or db >= config.floor_db
    if is_close and not config.sensitivity:
        return ready, []
    found = trial.sensitivities(progress)
    mixed = None if is_close else trial.within(config.floor_db, found)
    if mixed is not None:
        progress.say(
            f"    {len(mixed.kept_float)} of {len(found)} layers stay float: with all of them in {config.precision} it "
            f"comes to {db:.1f} dB, {config.floor_db:g} are asked for"
        )
    return mixed or ready, found
