"""Magnitudes of a graph's float16 tensors, on seeded pictures."""

from __future__ import annotations

from edgevit.graphs.float16_rounding import float16_tensors, in_float32
from edgevit.graphs.graph import Graph
from edgevit.graphs.metadata import iospec_of_onnx
from edgevit.runtimes.base import fixed_batch, random_images
from edgevit.runtimes.float16_range import Magnitudes, magnitudes


def float16_magnitudes(graph: Graph) -> dict[str, Magnitudes]:
    """Magnitudes that float16 tensors have where the graph is computed in float32, by name.

    Empty where the graph has no float16 tensor.

    Raises:
        ArtifactError: the graph does not take one picture and give scores, or does not run here.
    """
    tensors = sorted(float16_tensors(graph.model) - graph.constants.keys())
    if not tensors:
        return {}
    wide = in_float32(graph.model)
    spec = iospec_of_onnx(wide, "")
    return magnitudes(wide, tensors, lambda: [random_images(spec, fixed_batch(spec) or 1)], threads=1)
