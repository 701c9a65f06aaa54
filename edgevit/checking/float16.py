"""Magnitudes of a graph's float16 tensors, on seeded images."""

from __future__ import annotations

from collections.abc import Set

from edgevit.graphs.float16_rounding import float16_tensors, in_float32
from edgevit.graphs.graph import Graph
from edgevit.graphs.metadata import iospec_of_onnx
from edgevit.runtimes.base import fixed_batch, random_images
from edgevit.runtimes.float16_range import Magnitudes, magnitudes


def float16_magnitudes(graph: Graph, names: Set[str] | None = None) -> dict[str, Magnitudes]:
    """The magnitudes of float16 tensors when the graph is computed in float32, by name.

    Args:
        names: of the tensors to measure; None for all.

    Raises:
        ArtifactError: the graph is not an image classifier, or does not run here.
    """
    measurable = float16_tensors(graph.model) - graph.constants.keys()
    tensors = sorted(measurable if names is None else measurable & names)
    if not tensors:
        return {}
    wide = in_float32(graph.model)
    spec = iospec_of_onnx(wide, "")
    return magnitudes(wide, tensors, lambda: [random_images(spec, fixed_batch(spec) or 1)], threads=1)
