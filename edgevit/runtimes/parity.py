"""Gates: does a file still compute what it was made from?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevit.artifacts import EMBEDDING, IOSpec
from edgevit.errors import ParityError
from edgevit.graphs.class_scores import probabilities
from edgevit.runtimes.base import Session, fixed_batch, random_images

PROBES = 8
NOISELESS_DB = 200.0


@dataclass(frozen=True)
class Tolerance:
    """|got - expected| ≤ absolute + relative · max|expected|, for each output."""

    absolute: float
    relative: float


# The one table. float32: sums in another order; 1e-6 of the largest logit was measured over compact ViTs.
# int8, float8: a kernel that fuses otherwise may round a value to the neighbouring step, and that grows with depth.
# int4: weights alone, what they meet is float16.
TOLERANCES = {
    "float32": Tolerance(absolute=1e-5, relative=1e-4),
    "float16": Tolerance(absolute=1e-3, relative=2e-2),
    "int8": Tolerance(absolute=1e-3, relative=2e-2),
    "float8": Tolerance(absolute=1e-3, relative=2e-2),
    "int4": Tolerance(absolute=1e-3, relative=2e-2),
}


@dataclass(frozen=True)
class Agreement:
    """How close two models are: the largest difference of any output, and the share of images with the same top-1.

    Within the tolerance, top-1 can differ only where the two best scores tie to twice that tolerance.
    """

    max_difference: float
    top1_agreement: float


def check_sessions_agree(got: Session, expected: Session, precision: str, where: object) -> Agreement:
    """Run both models on the same seeded pictures and hold their outputs against each other.

    Raises ParityError where they differ by more than the tolerance of `precision`.
    """
    batch = fixed_batch(got.spec) or fixed_batch(expected.spec) or PROBES
    outputs, reference = (
        session.infer({session.spec.inputs[0].name: random_images(session.spec, batch)}) for session in (got, expected)
    )
    return check_outputs_agree(
        outputs,
        reference,
        precision,
        where,
        expected.spec,
    )


def check_outputs_agree(
    got: Mapping[str, NDArray[Any]],
    expected: Mapping[str, NDArray[Any]],
    precision: str,
    where: object,
    spec: IOSpec,
) -> Agreement:
    """The largest difference and top-1 agreement of two sets of outputs; raises ParityError beyond the tolerance."""
    worst = max(_check_output(name, got, expected, TOLERANCES[precision], where) for name in expected)
    scores = spec.outputs[0]
    first, second = (probabilities(outputs[scores.name], scores.meaning).argmax(-1) for outputs in (got, expected))
    return Agreement(worst, float(np.mean(first == second)))


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


def check_quantized(
    quantized: Session,
    reference: Session,
    batches: Iterable[NDArray[np.float32]],
    floor_db: float,
    where: object,
    advice: str | None = None,
) -> float:
    """The SQNR of a quantized model's centred scores over some input batches, in dB.

    10·log10(Σ c(r)² / Σ (c(r) - c(q))²) over all images and classes, where c takes an image's mean score from each of
    its scores: softmax does not see that offset, and a large one would hide a model that tells nothing apart. The one
    score of a model for two classes stays as it is.

    Raises ParityError, with `advice`, below `floor_db`, or where a value of either model is not finite.
    """
    output = quantized.spec.outputs[0].name
    got, expected = _outputs(quantized, reference, batches, output)
    _check_finite(output, got, where)
    _check_finite(f"{output} of the float model", expected, where)
    value = sqnr_db(_centred(got), _centred(expected))
    if value < floor_db:
        raise ParityError(
            f"output '{output}' of the quantized model is too far from the float one",
            where=where,
            got=f"{value:.1f} dB",
            expected=f"at least {floor_db:g} dB (min_sqnr_db)",
            next=advice,
        )
    return value


def embedding_sqnr_db(quantized: Session, reference: Session, batches: Iterable[NDArray[np.float32]]) -> float:
    """The SQNR of a quantized model's embedding over some input batches, in dB.

    The reference's mean embedding is taken from both: directions from there are what tells classes apart.
    """
    got, expected = _outputs(quantized, reference, batches, EMBEDDING)
    centre = expected.mean(0, dtype=np.float64)
    return sqnr_db(got - centre, expected - centre)


def centred_outputs(session: Session, batches: Iterable[NDArray[np.float32]]) -> NDArray[np.float64]:
    """Scores (images, classes) less each image's mean score; a single score as it is."""
    images, output = session.spec.inputs[0].name, session.spec.outputs[0].name
    return _centred(np.concatenate([session.infer({images: batch})[output] for batch in batches]))


def _outputs(
    quantized: Session, reference: Session, batches: Iterable[NDArray[np.float32]], output: str
) -> tuple[NDArray[Any], NDArray[Any]]:
    images = quantized.spec.inputs[0].name
    pairs = [(quantized.infer({images: batch})[output], reference.infer({images: batch})[output]) for batch in batches]
    got, expected = (np.concatenate(values) for values in zip(*pairs, strict=True))
    return got, expected


def _check_output(
    name: str,
    got: Mapping[str, NDArray[Any]],
    expected: Mapping[str, NDArray[Any]],
    tolerance: Tolerance,
    where: object,
) -> float:
    if name not in got:
        raise ParityError(f"output '{name}' is gone", where=where, got=", ".join(got), expected=", ".join(expected))
    if got[name].shape != expected[name].shape:
        raise ParityError(
            f"output '{name}' has another shape", where=where, got=got[name].shape, expected=expected[name].shape
        )
    _check_finite(name, got[name], where)
    difference = float(np.abs(got[name].astype(np.float64) - expected[name]).max())
    allowed = _allowed(expected[name], tolerance)
    if not difference <= allowed:
        raise ParityError(
            f"output '{name}' differs from what it was made from",
            where=where,
            got=f"a largest difference of {difference:.3g}",
            expected=f"at most {allowed:.3g}",
        )
    return difference


def _check_finite(name: str, values: NDArray[Any], where: object) -> None:
    bad = int(values.size - np.isfinite(values).sum())
    if bad:
        raise ParityError(f"output '{name}' is not finite", where=where, got=f"{bad} of {values.size} NaN or infinite")


def _centred(scores: NDArray[Any]) -> NDArray[np.float64]:
    wide: NDArray[np.float64] = scores.astype(np.float64)
    return wide - wide.mean(axis=1, keepdims=True) if wide.shape[1] > 1 else wide


def _allowed(expected: NDArray[Any], tolerance: Tolerance) -> float:
    return tolerance.absolute + tolerance.relative * float(np.abs(expected).max())
