"""An ONNX file → the graph as ONNX Runtime optimises it for this machine."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import onnx

from edgevit.artifacts import Artifact, Json
from edgevit.runtimes.onnx_files import onnx_file, write_onnx
from edgevit.runtimes.onnxruntime.session import inference_session

ENGINE = "model.onnx"


def engine_from_onnx(model: Artifact, out: Path) -> Json:
    """Write the optimised graph to `out`/model.onnx and return the session options to load it with.

    Fusions and memory layouts are chosen now, for this CPU and this version of ONNX Runtime, and not again at load:
    it loads faster, and what was tested is what runs. Another CPU or version may not load it, or not fast; there, the
    ONNX file that this was made from is compiled again.
    """
    with TemporaryDirectory() as folder:
        optimized = Path(folder) / ENGINE
        inference_session(onnx_file(model), model.manifest.session_options, threads=1, optimized_path=optimized)
        session_options: Json = {"graph_optimization_level": "disabled"}
        write_onnx(onnx.load(optimized), out / ENGINE, model.io, session_options)
    return session_options
