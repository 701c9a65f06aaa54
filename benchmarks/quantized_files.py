"""Opens the file of a quantized graph, and finds the images that a session classifies correctly."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from edgevit.artifacts import Artifact
from edgevit.data import Dataset
from edgevit.evaluation import classify
from edgevit.graphs.files import write_onnx
from edgevit.progress import SilentProgress
from edgevit.quantization.ptq import Quantized
from edgevit.runtimes.base import HostSession
from edgevit.runtimes.sessions import session_as_declared

BATCH = 32


def quantized_session(quantized: Quantized, model: Artifact, threads: int) -> HostSession:
    """A session of the file that `quantize` would write; `model` is the float file that the graph comes from."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        write_onnx(quantized.model, file, model.io, quantized.options)
        return session_as_declared(file, model.io, quantized.options, threads)


def correct_images(session: HostSession, images: Dataset) -> NDArray[np.bool_]:
    """(images,): whether each labelled image is classified correctly."""
    return classify(session, images, BATCH, SilentProgress()).correct
