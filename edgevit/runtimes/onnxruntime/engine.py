"""An ONNX file → the graph as ONNX Runtime optimises it for this machine."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import onnx

from edgevit.artifacts import Artifact, Json
from edgevit.runtimes.files import onnx_file, write_onnx
from edgevit.runtimes.onnxruntime.session import inference_session

ENGINE = "model.onnx"
OWN_LAYOUT = "com.microsoft.nchwc"


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
        write_onnx(_with_stable_names(onnx.load(optimized)), out / ENGINE, model.io, session_options)
    return session_options


def _with_stable_names(model: onnx.ModelProto) -> onnx.ModelProto:
    """ONNX Runtime numbers the nodes that it adds for its own memory layout in an order that changes between runs."""
    for index, node in enumerate(model.graph.node):
        if node.domain == OWN_LAYOUT:
            node.name = f"{node.op_type}_{index}"
    return model
