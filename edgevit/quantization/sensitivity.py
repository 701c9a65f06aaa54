"""SQNR of the model with each layer quantized alone, and the layers that stay float for a model close enough."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from edgevit.artifacts import Json
from edgevit.graphs.files import write_onnx
from edgevit.graphs.tensors import shapes_of_weights
from edgevit.progress import Progress
from edgevit.quantization.bias_correction import BiasCorrection
from edgevit.quantization.gate import Closeness, Validation
from edgevit.quantization.ptq import CalibratedModel
from edgevit.runtimes.base import HostSession, Session
from edgevit.runtimes.parity import centered_outputs, sqnr_db
from edgevit.runtimes.sessions import session_as_declared

MOST_BATCHES = 4
GROWTH = 1.5  # of the number of float layers
SHRINKAGE = 0.9  # of the allowed noise


@dataclass(frozen=True)
class Sensitivity:
    """The model with one layer quantized.

    Attributes:
        node: name of the layer's node in the graph.
        sqnr_db: of the logits against the float model's.
    """

    node: str
    operator: str
    sqnr_db: float

    @property
    def noise(self) -> float:
        """Power of the noise over power of the signal."""
        return float(10 ** (-self.sqnr_db / 10))

    def as_json(self) -> Json:
        """A row of the table of sensitivities."""
        return {"node": self.node, "operator": self.operator, "sqnr_db": self.sqnr_db}


def sensitivity_table(model: CalibratedModel, sensitivities: Sequence[Sensitivity]) -> list[Json]:
    """The record of the layers' sensitivities, and of the layers that stay float in `model`."""
    return [{**layer.as_json(), "kept_float": layer.node in model.kept_float} for layer in sensitivities]


class SensitivityAnalysis:
    """Runs models of one function with some of their layers quantized, and compares them with the float model.

    Args:
        reference: the float model, before smoothing or fusion of norms.
        images: input batches; single layers use the first four.
        correction: of biases, if those of the shipped model are corrected; single layers are tried without it.
        validation: images on which answers are compared, too; single layers are tried without them.
    """

    def __init__(
        self,
        reference: HostSession,
        images: Sequence[NDArray[np.float32]],
        threads: int,
        correction: BiasCorrection | None = None,
        validation: Validation | None = None,
    ) -> None:
        self._spec, self._images, self._threads = reference.spec, images, threads
        self._correction, self._validation = correction, validation
        self._reference = reference

    def sensitivities(self, model: CalibratedModel, progress: Progress) -> list[Sensitivity]:
        """The SQNR of a model with each layer quantized alone, lowest first."""
        nodes = model.nodes()
        names = {node.name for node in nodes}
        sensitivities = []
        with progress.bar("quantize each layer alone", len(nodes), "layers") as bar:
            for node in nodes:
                alone = replace(model, kept_float=frozenset(names - {node.name}))
                sensitivities.append(Sensitivity(node.name, node.op_type, self.sqnr_db(alone, MOST_BATCHES)))
                bar.advance()
        return sorted(sensitivities, key=lambda layer: layer.sqnr_db)

    def sqnr_db(self, model: CalibratedModel, batches: int | None = None) -> float:
        """The SQNR of a quantized model against the float model, on all images or on the first `batches` batches."""
        with self._session(model) as (_, session):
            return self._sqnr_db(session, batches)

    def closeness(self, model: CalibratedModel, floor_db: float) -> Closeness:
        """A quantized model against the float model, on all images. Answers are compared if the SQNR is high enough."""
        with self._session(model) as (file, session):
            db = self._sqnr_db(session)
            validation = self._validation if db >= floor_db else None
            change = validation.change_of_file(file, session) if validation else None
            return Closeness(db, floor_db, change)

    @cached_property
    def _expected(self) -> list[NDArray[np.float64]]:
        return [centered_outputs(self._reference, [batch]) for batch in self._images]

    @contextmanager
    def _session(self, model: CalibratedModel) -> Iterator[tuple[Path, Session]]:
        quantized = model.quantized()
        with TemporaryDirectory() as folder:
            file = Path(folder) / "model.onnx"
            write_onnx(quantized.model, file, self._spec, quantized.options)
            yield file, session_as_declared(file, self._spec, quantized.options, self._threads)

    def _sqnr_db(self, session: Session, batches: int | None = None) -> float:
        outputs = centered_outputs(session, self._images[:batches])
        return sqnr_db(outputs, np.concatenate(self._expected[:batches]))

    def as_shipped(self, model: CalibratedModel) -> CalibratedModel:
        """The model with corrected biases, if those of the shipped model are corrected."""
        return self._correction(model, "all") if self._correction else model

    def within(
        self, model: CalibratedModel, whole: Closeness, sensitivities: Sequence[Sensitivity]
    ) -> CalibratedModel | None:
        """The model with few weights in float that passes both gates; None if they refuse any quantized layer.

        The noise of layers adds up, nearly. Layers stay float until the noise of the rest, as a share of all layers',
        would be allowed. While a gate refuses the model, half as many more layers stay float each time, or more.

        The search tries several models on the same validation images. So once the gate by top-1 has refused one, chance
        excuses no loss above the limit: the measured loss itself has to be within it.

        Args:
            whole: the closeness of the model with all layers quantized, as it ships, which a gate refuses.
        """
        shapes = shapes_of_weights(model.model)
        sizes = {node.name: math.prod(shapes[node.input[1]]) for node in model.nodes()}
        allowed = _noise(sensitivities) * min(1, 10 ** ((whole.sqnr_db - whole.floor_db) / 10))
        lost_too_much = "max_top1_drop" in whole.refused_by
        count = 1
        while count < len(sensitivities):
            kept = layers_to_keep_float(sensitivities, sizes, allowed)
            if len(kept) < count:
                allowed *= SHRINKAGE
                continue
            if len(kept) == len(sensitivities):
                break
            mixed = replace(model, kept_float=kept)
            closeness = self.closeness(self.as_shipped(mixed), whole.floor_db)
            lost_too_much = lost_too_much or "max_top1_drop" in closeness.refused_by
            is_over = closeness.change is not None and not closeness.change.is_within_limit
            if not closeness.refused_by and not (lost_too_much and is_over):
                return mixed
            count = math.ceil(len(kept) * GROWTH)
        return None


def layers_to_keep_float(
    sensitivities: Sequence[Sensitivity], sizes: Mapping[str, int], allowed: float
) -> frozenset[str]:
    """Layers that leave noise of at most `allowed` if they stay float, with few weights.

    Those with the most noise for each weight come first. Then those that are not needed any more are left out.

    Args:
        sizes: the number of weights of each layer.
    """
    by_gain = sorted(sensitivities, key=lambda layer: layer.noise / sizes[layer.node], reverse=True)
    count = next(count for count in range(len(by_gain) + 1) if _noise(by_gain[count:]) <= allowed)
    kept, rest = by_gain[:count], by_gain[count:]
    for layer in sorted(kept, key=lambda layer: layer.noise):
        if _noise([*rest, layer]) <= allowed:
            kept.remove(layer)
            rest.append(layer)
    return frozenset(layer.node for layer in kept)


def _noise(layers: Sequence[Sensitivity]) -> float:
    return math.fsum(layer.noise for layer in layers)
