"""A classifier of a few kilobytes as an ONNX artifact, so that bundles can be tested without training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgevit.artifacts import Artifact, IOSpec, Preprocess
from edgevit.graphs.files import artifact_from_onnx, write_onnx
from edgevit.model_file import RuntimeOptions

CLASSES = ("ant", "bee", "naïve <cat>", "dog")


def small_model(
    folder: Path, classes: tuple[str, ...] = CLASSES, batch: int | str = "batch", options: RuntimeOptions | None = None
) -> Artifact:
    """conv 3×3 → relu → global mean → linear, random weights, 16×24 inputs."""
    spec = IOSpec.for_classifier(Preprocess(height=16, width=24, crop_pct=0.875), classes, batch)
    generator = np.random.default_rng(1)
    weights = {
        "kernel": generator.normal(size=(8, 3, 3, 3)),
        "matrix": generator.normal(size=(8, len(classes))) * 3,
        "bias": generator.normal(size=len(classes)),
    }
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["convolved"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["convolved"], ["positive"]),
        helper.make_node("GlobalAveragePool", ["positive"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
        helper.make_node("Gemm", ["features", "matrix", "bias"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, 16, 24])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, len(classes)])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    folder.mkdir(parents=True, exist_ok=True)
    write_onnx(model, folder / "model.onnx", spec, options)
    return artifact_from_onnx(folder / "model.onnx")


def with_weights_beside(model: Artifact, folder: Path) -> Artifact:
    """The same model with its weights in a file of their own."""
    folder.mkdir()
    loaded = onnx.load(model.path / "model.onnx")
    onnx.save_model(
        loaded, folder / "model.onnx", save_as_external_data=True, location="model.onnx.data", size_threshold=0
    )
    return artifact_from_onnx(folder / "model.onnx")
