"""Parity gates: comparison of a converted model's outputs with the outputs of its source."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevit.artifacts import EMBEDDING, IOSpec
from edgevit.errors import ParityError
from edgevit.graphs.class_scores import probabilities
from edgevit.runtimes.base import Arrays, Session, fixed_batch, random_images

PROBES = 8
NOISELESS_DB = 200.0
FEWEST = 2  # images that an engine gets in each batch size

# The floors of an engine's SQNR against its ONNX file; the same numbers in another order of sums and roundings. Chosen,
# not measured on boards. float32 and float16: errors of 0.1% and 1% of the scores' spread (root mean square). int8 and
# below: 10%, because a rounding step that falls the other way changes later steps. A small INT8 ViT had 34 dB between
# its results with and without the rounding of its other tensors to float16.
ENGINE_DB = {"float32": 60.0, "float16": 40.0, "int8": 20.0, "float8": 20.0, "int4": 20.0}
BETWEEN_IMAGES_DB = 3.0  # half of the energy of the differences between images; no constant answer is above 0 dB
ROUNDING_ROOM_DB = 10.0


@dataclass(frozen=True)
class Tolerance:
    """|got - expected| ≤ absolute + relative · max|expected|, for each output."""

    absolute: float
    relative: float


# The only table of tolerances. float32: sums are in another order; 1e-6 of the largest logit was measured over compact
# ViTs. int8, float8: another fusion may round a value to the neighboring step, and differences grow with depth. int4:
# weights alone, activations are float16.
TOLERANCES = {
    "float32": Tolerance(absolute=1e-5, relative=1e-4),
    "float16": Tolerance(absolute=1e-3, relative=2e-2),
    "int8": Tolerance(absolute=1e-3, relative=2e-2),
    "float8": Tolerance(absolute=1e-3, relative=2e-2),
    "int4": Tolerance(absolute=1e-3, relative=2e-2),
}


@dataclass(frozen=True)
class Agreement:
    """Closeness of two models: the largest difference of any output, and the share of images with equal top-1.

    Within the tolerance, top-1 can differ only if the two highest scores differ by at most twice the tolerance.
    """

    max_difference: float
    top1_agreement: float


@dataclass(frozen=True)
class EngineCloseness:
    """Closeness of an engine to its ONNX file: the least over outputs and batch sizes, in dB.

    Attributes:
        between_images_db: after the mean over images is subtracted; None where images hardly differ.
    """

    sqnr_db: float
    between_images_db: float | None

    def reaches(self, precision: str) -> bool:
        """Whether it reaches both floors."""
        return self.sqnr_db >= ENGINE_DB[precision] and (
            self.between_images_db is None or self.between_images_db >= BETWEEN_IMAGES_DB
        )


def check_sessions_agree(got: Session, expected: Session, precision: str, where: object) -> Agreement:
    """Run both models on the same seeded images and compare their outputs.

    Raises ParityError if they differ by more than the tolerance of `precision`.
    """
    batch = fixed_batch(got.spec) or fixed_batch(expected.spec) or PROBES
    outputs, reference = (
        session.infer({session.spec.inputs[0].name: random_images(session.spec, batch)}) for session in (got, expected)
    )
    return check_outputs_agree(outputs, reference, precision, where, expected.spec)


def check_outputs_agree(
    got: Mapping[str, NDArray[Any]],
    expected: Mapping[str, NDArray[Any]],
    precision: str,
    where: object,
    spec: IOSpec,
) -> Agreement:
    """The largest difference and top-1 agreement of two sets of outputs. Raises ParityError beyond the tolerance."""
    largest = max(_check_output(name, got, expected, TOLERANCES[precision], where) for name in expected)
    scores = spec.outputs[0]
    top1, expected_top1 = (
        probabilities(outputs[scores.name], scores.meaning).argmax(-1) for outputs in (got, expected)
    )
    return Agreement(largest, float(np.mean(top1 == expected_top1)))


def check_engine_agrees(
    engine: Session, source: Session, precision: str, batch_sizes: Iterable[int], where: object
) -> EngineCloseness:
    """Hold an engine's outputs against those of its ONNX file, in batches of each size. Scores are centered.

    Two floors are held for each output: the SQNR has a floor by precision (ENGINE_DB), and the SQNR between images has
    another (BETWEEN_IMAGES_DB). For the latter, the reference's mean over images is subtracted from both. An engine
    that ignores its input reaches 0 dB there at most. It could reach the first floor, because scores of noise images
    are alike. The latter is not held where the mean itself is ROUNDING_ROOM_DB above the first floor: there, the images
    differ by hardly more than rounding.

    All floors were chosen, not measured on boards.

    Args:
        batch_sizes: of the engine. One that is larger than PROBES is filled up with copies of the images.

    Raises:
        ParityError: an SQNR is below its floor, an output is missing or has another shape, or a value is not finite.
    """
    images, scores = random_images(source.spec, PROBES), engine.spec.outputs[0].name
    reference = _in_batches(source, images, fixed_batch(source.spec) or PROBES)
    closeness = []
    for size in sorted(set(batch_sizes)):
        rows = np.resize(np.arange(PROBES), max(size, FEWEST))
        got = _in_batches(engine, images[rows], size)
        for name in reference:
            expected = reference[name][rows]
            _check_comparable(name, got, expected, where)
            values, expected = (_centered(each) if name == scores else each for each in (got[name], expected))
            closeness.append(_closeness_of_output(values, expected, precision))
            _check_close(name, closeness[-1], precision, size, where)
    return EngineCloseness(
        min(output.sqnr_db for output in closeness),
        min((output.between_images_db for output in closeness if output.between_images_db is not None), default=None),
    )


def closeness_of_tensors(engine: Session, source: Session, precision: str, size: int) -> dict[str, EngineCloseness]:
    """The closeness of each output of an engine to that of its ONNX file, on seeded images in batches of one size.

    It is that of `check_engine_agrees`, without its floors. Values that are not finite give -NOISELESS_DB.
    """
    images = random_images(source.spec, PROBES)[np.resize(np.arange(PROBES), max(size, FEWEST))]
    expected = _in_batches(source, images, fixed_batch(source.spec) or PROBES)
    got, scores = _in_batches(engine, images, size), engine.spec.outputs[0].name
    pairs = {name: (got[name], expected[name]) for name in expected}
    pairs[scores] = (_centered(got[scores]), _centered(expected[scores]))
    return {name: _closeness_of_output(*pair, precision) for name, pair in pairs.items()}


def sqnr_db(quantized: NDArray[Any], reference: NDArray[Any]) -> float:
    """Signal-to-quantization-noise ratio, 10·log10(Σ reference² / Σ (reference - quantized)²); NOISELESS_DB at most."""
    reference64, quantized64 = reference.astype(np.float64), quantized.astype(np.float64)
    noise = float(np.sum((reference64 - quantized64) ** 2))
    signal = float(np.sum(reference64**2))
    if noise == 0:
        return NOISELESS_DB
    if not np.isfinite(noise):
        return -NOISELESS_DB
    return min(NOISELESS_DB, 10 * float(np.log10(signal / noise))) if signal > 0 else -NOISELESS_DB


def quantized_sqnr_db(
    quantized: Session, reference: Session, batches: Iterable[NDArray[np.float32]], where: object
) -> float:
    """The SQNR of a quantized model's centered scores over some input batches, in dB.

    10·log10(Σ c(r)² / Σ (c(r) - c(q))²) over all images and classes, where c subtracts an image's mean score from each
    of its scores. Softmax ignores that offset, and a large offset would hide a model that does not distinguish classes.
    The single score of a model for two classes is not centered.

    Raises ParityError if a value of either model is not finite.
    """
    output = quantized.spec.outputs[0].name
    got, expected = _outputs(quantized, reference, batches, output)
    _check_finite(output, got, where)
    _check_finite(f"{output} of the float model", expected, where)
    return sqnr_db(_centered(got), _centered(expected))


def embedding_sqnr_db(quantized: Session, reference: Session, batches: Iterable[NDArray[np.float32]]) -> float:
    """The SQNR of a quantized model's embedding over some input batches, in dB.

    The reference's mean embedding is subtracted from both, because classes differ in the direction from the mean.
    """
    got, expected = _outputs(quantized, reference, batches, EMBEDDING)
    mean = expected.mean(0, dtype=np.float64)
    return sqnr_db(got - mean, expected - mean)


def centered_outputs(session: Session, batches: Iterable[NDArray[np.float32]]) -> NDArray[np.float64]:
    """Scores (images, classes) minus each image's mean score; a single score is not centered."""
    output = session.spec.outputs[0].name
    return _centered(np.concatenate([outputs[output] for outputs in session.infer_each(batches)]))


def _in_batches(session: Session, images: NDArray[Any], size: int) -> Arrays:
    """The outputs for images. The last batch is filled up with copies, which do not count."""
    filled = np.resize(images, (math.ceil(len(images) / size) * size, *images.shape[1:]))
    parts = list(session.infer_each(np.split(filled, len(filled) // size)))
    return {name: np.concatenate([part[name] for part in parts])[: len(images)] for name in parts[0]}


def _closeness_of_output(got: NDArray[Any], expected: NDArray[Any], precision: str) -> EngineCloseness:
    """The closeness of one output, (images, …)."""
    mean = expected.mean(0, dtype=np.float64)
    hardly_differ = sqnr_db(np.broadcast_to(mean, expected.shape), expected) >= ENGINE_DB[precision] + ROUNDING_ROOM_DB
    return EngineCloseness(sqnr_db(got, expected), None if hardly_differ else sqnr_db(got - mean, expected - mean))


def _check_close(name: str, closeness: EngineCloseness, precision: str, size: int, where: object) -> None:
    floors = (
        (closeness.sqnr_db, ENGINE_DB[precision], f"output '{name}' of the engine differs from its ONNX file's"),
        (
            closeness.between_images_db,
            BETWEEN_IMAGES_DB,
            f"output '{name}' of the engine does not follow the images as its ONNX file's does",
        ),
    )
    for db, floor, what in floors:
        if db is not None and db < floor:
            raise ParityError(
                what,
                where=where,
                got=f"{db:.1f} dB on seeded images in batches of {size}",
                expected=f"at least {floor:g} dB",
                next="choose other kernels with `builds: 3` in `compile`, take the float16 export, or another TensorRT",
            )


def _outputs(
    quantized: Session, reference: Session, batches: Iterable[NDArray[np.float32]], output: str
) -> tuple[NDArray[Any], NDArray[Any]]:
    batches = list(batches)
    got, expected = (
        np.concatenate([outputs[output] for outputs in session.infer_each(batches)])
        for session in (quantized, reference)
    )
    return got, expected


def _check_output(
    name: str,
    got: Mapping[str, NDArray[Any]],
    expected: Mapping[str, NDArray[Any]],
    tolerance: Tolerance,
    where: object,
) -> float:
    _check_comparable(name, got, expected[name], where)
    difference = float(np.abs(got[name].astype(np.float64) - expected[name]).max())
    allowed = _allowed(expected[name], tolerance)
    if not difference <= allowed:
        raise ParityError(
            f"output '{name}' differs from the source model's",
            where=where,
            got=f"a largest difference of {difference:.3g}",
            expected=f"at most {allowed:.3g}",
        )
    return difference


def _check_comparable(name: str, got: Mapping[str, NDArray[Any]], expected: NDArray[Any], where: object) -> None:
    if name not in got:
        raise ParityError(f"output '{name}' is missing", where=where, got=", ".join(got), expected=name)
    if got[name].shape != expected.shape:
        raise ParityError(
            f"output '{name}' has another shape", where=where, got=got[name].shape, expected=expected.shape
        )
    _check_finite(name, got[name], where)


def _check_finite(name: str, values: NDArray[Any], where: object) -> None:
    not_finite = int(values.size - np.isfinite(values).sum())
    if not_finite:
        got = f"{not_finite} of {values.size} NaN or infinite"
        raise ParityError(f"output '{name}' is not finite", where=where, got=got)


def _centered(scores: NDArray[Any]) -> NDArray[np.float64]:
    scores64: NDArray[np.float64] = scores.astype(np.float64)
    return scores64 - scores64.mean(axis=1, keepdims=True) if scores64.shape[1] > 1 else scores64


def _allowed(expected: NDArray[Any], tolerance: Tolerance) -> float:
    return tolerance.absolute + tolerance.relative * float(np.abs(expected).max())
