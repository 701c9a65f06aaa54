"""What each layer alone costs in closeness to float, and which layers stay float so that the whole is close enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from edgevit.artifacts import Json
from edgevit.graphs.files import write_onnx
from edgevit.progress import Progress
from edgevit.quantization.bias_correction import BiasCorrection
from edgevit.quantization.ptq import CalibratedModel
from edgevit.runtimes.base import HostSession
from edgevit.runtimes.parity import centred_outputs, sqnr_db
from edgevit.runtimes.sessions import session_as_declared

MOST_BATCHES = 4
MORE_EACH_TIME = 1.5


@dataclass(frozen=True)
class Sensitivity:
    """One layer, quantized alone.

    Attributes:
        node: its name in the graph.
        sqnr_db: of the logits, against the float model's.
    """

    node: str
    operator: str
    sqnr_db: float

    @property
    def noise(self) -> float:
        """Its power, as a share of the signal's."""
        return float(10 ** (-self.sqnr_db / 10))

    def as_json(self) -> Json:
        return {"node": self.node, "operator": self.operator, "sqnr_db": self.sqnr_db}


class LayerTrial:
    """Runs a model with some of its layers quantized, and compares it with the float one.

    Args:
        reference: the float model, as it was handed in.
        images: input batches; of single layers the first four.
        correction: of biases, where those of what ships are corrected; single layers are tried without.
    """

    def __init__(
        self,
        model: CalibratedModel,
        reference: HostSession,
        images: Sequence[NDArray[np.float32]],
        threads: int,
        correction: BiasCorrection | None = None,
    ) -> None:
        self._model, self._spec, self._images, self._threads = model, reference.spec, images, threads
        self._correction = correction
        self._expected = [centred_outputs(reference, [batch]) for batch in images]

    def sensitivities(self, progress: Progress) -> list[Sensitivity]:
        """Each layer alone, the costliest first."""
        nodes = self._model.nodes()
        everything = {node.name for node in nodes}
        found = []
        with progress.bar("quantize each layer alone", len(nodes), "layers") as bar:
            for node in nodes:
                alone = replace(self._model, kept_float=frozenset(everything - {node.name}))
                found.append(Sensitivity(node.name, node.op_type, self.sqnr_db(alone, MOST_BATCHES)))
                bar.advance()
        return sorted(found, key=lambda one: one.sqnr_db)

    def sqnr_db(self, model: CalibratedModel, batches: int | None = None) -> float:
        """How close a model is to the float one, on all images or on the first so many batches."""
        made = model.quantized()
        with TemporaryDirectory() as folder:
            file = Path(folder) / "model.onnx"
            write_onnx(made.model, file, self._spec, made.session_options)
            session = session_as_declared(file, self._spec, made.session_options, self._threads)
            got = centred_outputs(session, self._images[:batches])
        return sqnr_db(got, np.concatenate(self._expected[:batches]))

    def as_shipped(self, model: CalibratedModel) -> CalibratedModel:
        """A model, its biases corrected where they are to be."""
        return self._correction(model, "all") if self._correction else model

    def within(self, floor_db: float, sensitivities: Sequence[Sensitivity]) -> CalibratedModel | None:
        """The model with as few layers in float as bring it to `floor_db`; None where only all of them do.

        Noise of layers adds up, nearly: the costliest are left out until the rest should do, then half as many more
        each time that it does not.
        """
        allowed = 10 ** (-floor_db / 10)
        noises = np.array([one.noise for one in sensitivities])
        left = noises.sum() - np.concatenate([[0.0], np.cumsum(noises)])
        count = max(1, int(np.argmax(left <= allowed)))
        while count < len(sensitivities):
            kept = frozenset(one.node for one in sensitivities[:count])
            mixed = replace(self._model, kept_float=kept)
            if self.sqnr_db(self.as_shipped(mixed)) >= floor_db:
                return mixed
            count = int(np.ceil(count * MORE_EACH_TIME))
        return None
