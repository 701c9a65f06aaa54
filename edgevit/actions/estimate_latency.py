"""The predicted latency of an ONNX file on a board that is absent."""

from __future__ import annotations

from pathlib import Path

from edgevit.checking.check import graph_of
from edgevit.checking.shapes import for_batch_of
from edgevit.errors import RecipeError
from edgevit.graphs.files import read_onnx
from edgevit.graphs.graph import Graph
from edgevit.graphs.tensors import inputs_of
from edgevit.latency_model.boards import board_rates, name_in_mode
from edgevit.latency_model.estimate import Estimate, estimate_of
from edgevit.latency_model.kernels import kernels_of


def estimated_latency(
    file: Path,
    board: str,
    *,
    precision: str | None = None,
    tensorrt: str | None = None,
    power_mode: str | None = None,
    batch_size: int | None = None,
) -> Estimate:
    """Predict the latency of an ONNX file on a board. Nothing is measured.

    Args:
        precision: float32, float16 or int8. By default that of the file's Q/DQ pairs, and float16 without any.
        batch_size: 1, or the batch size that the file fixes, by default.

    Raises:
        ArtifactError: the file is no valid ONNX file, or a size is open.
        RecipeError: an option is wrong, or contradicts the file.
        TargetError: no latency is predicted for this board or precision.
    """
    board_rates(name_in_mode(board, power_mode))  # a wrong name is refused before the file is read
    model = read_onnx(file)
    first = next((size for value in inputs_of(model) for size in value.type.tensor_type.shape.dim), None)
    fixed = first.dim_value if first is not None and first.HasField("dim_value") else None
    if batch_size is not None and fixed is not None and batch_size != fixed:
        what = "the file fixes another batch size"
        raise RecipeError(what, where="--batch", got=batch_size, expected=fixed, next="export it with an open batch")
    graph = graph_of(for_batch_of(model, 1), file)
    plan = kernels_of(graph, fixed or 1)
    asked = _precision(graph, precision)
    size = batch_size or fixed or 1
    return estimate_of(plan, board, asked, batch_size=size, power_mode=power_mode, tensorrt=tensorrt)


def _precision(graph: Graph, asked: str | None) -> str:
    """The precision to predict. Raises RecipeError if the file's Q/DQ pairs say otherwise."""
    own = graph.quantized_precision
    if own is not None and asked not in (None, own):
        what = "the file's Q/DQ pairs ask for another precision"
        raise RecipeError(what, where="--precision", got=asked, expected=own, next="give the float file")
    return asked or own or "float16"
