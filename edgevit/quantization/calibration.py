"""Ranges of activations, measured on images that pass through the float model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from edgevit.configs import Calibrator
from edgevit.errors import DataError
from edgevit.graphs.tensors import inputs_of
from edgevit.model_file import AS_WRITTEN
from edgevit.runtimes.onnxruntime.session import inference_session, run_session

Ranges = dict[str, tuple[float, float]]
Batches = Callable[[], Iterable[NDArray[np.float32]]]

BINS = 2048  # of a histogram over -T..T, where T is the largest magnitude
LEVELS = 128  # magnitudes of int8
CANDIDATE_STEP = 8  # bins between the thresholds that entropy_range tries
KEPT_PERCENT = 99.99
STEPS = 255  # of an 8-bit range
SHARES = np.linspace(1, 0.05, 96)  # of the full range, tried by mse_range


def activation_ranges(
    model: ModelProto,
    tensors: Sequence[str],
    batches: Batches,
    calibrator: Calibrator,
    threads: int,
    is_symmetric: Callable[[str, tuple[float, float]], bool] = lambda name, bounds: False,
) -> Ranges:
    """The range of values of each tensor that INT8 will represent, (lowest, highest).

    One batch of activations is in memory at a time. All calibrators but minmax pass over the images twice: the
    histograms need the ranges first.

    Args:
        tensors: names of float tensors in the graph.
        batches: gives the input batches, equal at each call.
        is_symmetric: whether the integers of a tensor with this name and range will represent -T..T, where T is its
            largest magnitude. Only mse and entropy use this.

    Raises:
        DataError: there are no images, or a value is NaN or infinite.
    """
    with TemporaryDirectory() as folder:
        probe = ProbeSession(model, tensors, Path(folder), threads)
        ranges = _min_max(probe, batches)
        if calibrator == "minmax":
            return ranges
        histograms = _histograms(probe, batches, ranges, with_zeros=calibrator != "mse")
    if calibrator == "mse":
        return {name: mse_range(histograms[name], ranges[name], is_symmetric(name, ranges[name])) for name in tensors}
    if calibrator == "percentile":
        return {name: percentile_range(histograms[name], ranges[name]) for name in tensors}
    found = {}
    for name in tensors:
        all_above_zero = ranges[name][0] >= 0 and not is_symmetric(name, ranges[name])
        found[name] = entropy_range(histograms[name], ranges[name], 2 * LEVELS if all_above_zero else LEVELS)
    return found


def entropy_range(histogram: NDArray[np.int64], full: tuple[float, float], levels: int = LEVELS) -> tuple[float, float]:
    """The range with the least loss of information: argmin over T of KL(clipped ‖ quantized).

    Migacz 2017, "8-bit Inference with TensorRT", on magnitudes.

    Args:
        levels: the number of integers for magnitudes: 128, or 256 if no value is negative and no integer is.
    """
    half = len(histogram) // 2
    magnitudes = histogram[half:] + histogram[half - 1 :: -1]
    candidates = range(levels, half + 1, CANDIDATE_STEP)
    best = min(candidates, key=lambda bins: _divergence(magnitudes, bins, levels))
    largest = max(abs(full[0]), abs(full[1])) * best / half
    return max(full[0], -largest), min(full[1], largest)


def percentile_range(histogram: NDArray[np.int64], full: tuple[float, float]) -> tuple[float, float]:
    """The range that keeps 99.99% of all values, with equal shares cut off at both ends."""
    largest = max(abs(full[0]), abs(full[1]))
    edges = np.linspace(-largest, largest, len(histogram) + 1)
    share = np.cumsum(histogram) / histogram.sum()
    cut = (1 - KEPT_PERCENT / 100) / 2
    low, high = edges[np.searchsorted(share, cut)], edges[np.searchsorted(share, 1 - cut) + 1]
    return max(full[0], float(low)), min(full[1], float(high))


def mse_range(histogram: NDArray[np.int64], full: tuple[float, float], symmetric: bool = False) -> tuple[float, float]:
    """The range whose 255 steps round and clip with the least mean squared error; both ends shrink by one factor.

    Banner et al. 2019, "Post training 4-bit quantization of convolutional networks", eq. 2, on the histogram itself.

    Args:
        histogram: of all values but exact zeros. Integers represent 0 exactly, so zeros have no error.
    """
    largest = max(abs(full[0]), abs(full[1]))
    edges = np.linspace(-largest, largest, len(histogram) + 1)
    values, counts = (edges[1:] + edges[:-1]) / 2, histogram / max(histogram.sum(), 1)
    full = min(full[0], 0.0), max(full[1], 0.0)  # integers represent 0
    errors = []
    for share in SHARES:
        low, high = share * full[0], share * full[1]
        step = (2 * max(-low, high) if symmetric else high - low) / STEPS or 1.0
        clipped = np.clip(values, low, high)
        # values are spread evenly within a bin, so the squared error of rounding is step² / 12
        errors.append(float(counts @ (values - clipped) ** 2 + counts @ (clipped == values) * step**2 / 12))
    best = SHARES[int(np.argmin(errors))]
    return best * full[0], best * full[1]


class ProbeSession:
    """Runs a model, without fusions, and gives the values of inner tensors."""

    def __init__(self, model: ModelProto, tensors: Sequence[str], folder: Path, threads: int) -> None:
        probed = ModelProto()
        probed.CopyFrom(model)
        present = {value.name for value in (*probed.graph.output, *probed.graph.input)}
        probed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors if name not in present)
        file = folder / "probed.onnx"
        file.write_bytes(probed.SerializeToString())
        self._input = inputs_of(model)[0].name
        self._tensors = list(tensors)
        self._session = inference_session(file, AS_WRITTEN, threads)

    def run(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """The values of the tensors, by name, for images (N, 3, H, W)."""
        inner = [name for name in self._tensors if name != self._input]
        # An empty list of names would give all outputs.
        outputs = run_session(self._session, inner, {self._input: images}, "calibration") if inner else []
        values = dict(zip(inner, outputs, strict=True))
        return {name: images if name == self._input else values[name] for name in self._tensors}


def _min_max(probe: ProbeSession, batches: Batches) -> Ranges:
    ranges: Ranges = {}
    for images in batches():
        for name, values in probe.run(images).items():
            low, high = float(values.min()), float(values.max())
            if not np.isfinite(low) or not np.isfinite(high):
                raise DataError(
                    "the float model gives NaN or infinite values on the calibration images",
                    where=f"tensor '{name}'",
                    next="check the model with `edgevit evaluate` before quantizing it",
                )
            lowest, highest = ranges.get(name, (low, high))
            ranges[name] = min(lowest, low), max(highest, high)
    if not ranges:
        raise DataError("there are no calibration images", expected="at least one image")
    return ranges


def _histograms(
    probe: ProbeSession, batches: Batches, ranges: Ranges, with_zeros: bool
) -> dict[str, NDArray[np.int64]]:
    histograms = {name: np.zeros(BINS, np.int64) for name in ranges}
    for images in batches():
        for name, values in probe.run(images).items():
            largest = max(abs(ranges[name][0]), abs(ranges[name][1])) or 1.0
            counted = values if with_zeros else values[values != 0]
            histograms[name] += np.histogram(counted, BINS, range=(-largest, largest))[0]
    return histograms


def _divergence(magnitudes: NDArray[np.int64], bins: int, levels: int) -> float:
    """KL divergence of the distribution clipped at `bins` from its quantization in `levels` levels."""
    clipped = magnitudes[:bins].astype(np.float64)
    level = np.arange(bins) * levels // bins
    filled = clipped > 0
    share = np.bincount(level, clipped, levels) / np.maximum(np.bincount(level, filled, levels), 1)
    quantized = np.where(filled, share[level], 0)
    clipped[-1] += magnitudes[bins:].sum()
    p, q = clipped / max(clipped.sum(), 1), quantized / max(quantized.sum(), 1)
    q = np.where(q > 0, q, 1e-9)
    return float(np.sum(np.where(p > 0, p * np.log(np.where(p > 0, p, 1) / q), 0)))
