"""Tensors of a float32 graph whose values leave the range of float16, measured on images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgevit.errors import listed
from edgevit.graphs.float16 import COARSE, LARGEST, divisors_of, squares_in
from edgevit.graphs.norms import written_out_norms
from edgevit.graphs.tensors import constants_of, inputs_of, types_and_shapes
from edgevit.model_file import AS_WRITTEN
from edgevit.runtimes.onnxruntime.session import inference_session, run_session

HEADROOM = 4.0  # activations of other images may be this many times as large
MAGNITUDES = "edgevit_magnitudes"
# Operators whose output is small if their input is small.
CARRY_SMALLNESS = (
    "Add", "Cast", "Clip", "Concat", "Div", "Expand", "Flatten", "Identity", "Max", "Mul", "Pow", "ReduceMean",
    "ReduceSum", "Reshape", "Slice", "Split", "Sqrt", "Squeeze", "Sum", "Transpose", "Unsqueeze",
)  # fmt: skip


@dataclass(frozen=True)
class Magnitudes:
    """The largest finite magnitude of a tensor over some images, and the least above 0."""

    largest: float
    least: float = np.inf

    @property
    def overflows(self) -> bool:
        """Whether the largest magnitude times HEADROOM is infinite in float16."""
        return self.largest * HEADROOM > LARGEST

    @property
    def squared(self) -> Magnitudes:
        """Magnitudes of the squares. Times HEADROOM, the largest is the square of the largest times HEADROOM."""
        return Magnitudes(self.largest**2 * HEADROOM, self.least**2)

    @property
    def vanishes(self) -> bool:
        """Whether float16 has fewer steps up to the largest magnitude than int8 would."""
        return 0 < self.largest < COARSE


def beyond_float16(
    model: ModelProto, batches: Callable[[], Iterable[NDArray[Any]]], threads: int
) -> dict[str, Magnitudes]:
    """The activations of a float32 graph that leave the range of float16, by name.

    A tensor leaves it if it

    - reaches 65504 / HEADROOM,
    - enters a norm or is a dividend, and all its values are below 2⁻¹⁷,
    - is a divisor, and any of its values is below 2⁻¹⁷,
    - or is small itself, and such a small tensor is computed from it.

    The squares inside a norm have the name that `squares_in` gives. Some runtimes compute them in float16.

    Args:
        batches: gives input batches (N, 3, H, W).
    """
    constants = constants_of(model)
    types, shapes = types_and_shapes(model)
    watched = [
        name
        for name, element_type in types.items()
        if element_type == TensorProto.FLOAT and name not in constants and 0 not in shapes.get(name, ())
    ]
    measured = magnitudes(model, watched, batches, threads)
    beyond = {name for name in watched if measured[name].overflows} | _too_small(model, measured)
    normalized = {squares_in(node): node.input[0] for node in model.graph.node if squares_in(node)}
    squares = {squared: measured[name].squared for squared, name in normalized.items() if name in measured}
    overflowing_squares = {name: magnitude for name, magnitude in squares.items() if magnitude.overflows}
    return {name: measured[name] for name in watched if name in beyond} | overflowing_squares


def magnitudes(
    model: ModelProto, tensors: Sequence[str], batches: Callable[[], Iterable[NDArray[Any]]], threads: int
) -> dict[str, Magnitudes]:
    """The magnitudes of float32 tensors of a graph, by name.

    Nodes added to the graph compute them. A run holds all activations, so it takes a single image if the batch size is
    open.

    Args:
        tensors: names of activations that have at least one value.
        batches: gives input batches (N, 3, H, W).
    """
    if not tensors:
        return {}
    probed = ModelProto()
    probed.CopyFrom(model)
    for nodes in map(_reduction, tensors):
        probed.graph.node.extend(nodes)
    ends = [_named(tensor, end) for tensor in tensors for end in ("largest", "least")]
    probed.graph.node.append(helper.make_node("Concat", ends, [MAGNITUDES], axis=0))
    constants = {"zero": np.float32(0), "infinity": np.float32(np.inf), "one_number": np.array([1], np.int64)}
    probed.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), _named(MAGNITUDES, name)) for name, value in constants.items()
    )
    del probed.graph.output[:]
    probed.graph.output.append(helper.make_tensor_value_info(MAGNITUDES, TensorProto.FLOAT, [len(ends)]))
    largest, least = np.zeros(len(tensors)), np.full(len(tensors), np.inf)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "magnitudes.onnx"
        file.write_bytes(probed.SerializeToString())
        session = inference_session(file, AS_WRITTEN, threads)
        image = inputs_of(model)[0].name
        for images in _smallest_runs(model, batches()):
            extremes = run_session(session, [MAGNITUDES], {image: images}, "magnitudes")[0].reshape(-1, 2)
            largest, least = np.fmax(largest, extremes[:, 0]), np.fmin(least, extremes[:, 1])
    return {name: Magnitudes(float(high), float(low)) for name, high, low in zip(tensors, largest, least, strict=True)}


def beyond_float16_text(beyond: Mapping[str, Magnitudes], measured_on: str) -> str:
    """The number of tensors beyond float16, and the first of them with their magnitudes, for people."""
    tensors = [
        f"{name} (up to {magnitude.largest:.3g})" if magnitude.overflows else f"{name} (down to {magnitude.least:.2g})"
        for name, magnitude in beyond.items()
    ]
    return (
        f"{len(beyond)} of its tensors stay float32, because their values leave the range of float16 (measured on "
        f"{measured_on}, with a factor of {HEADROOM:g}): {listed(tensors, shown=3)}"
    )


def _smallest_runs(model: ModelProto, batches: Iterable[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    """The images of the batches one by one; whole batches if an input or output of the graph fixes the batch size."""
    sizes = [value.type.tensor_type.shape.dim for value in (*inputs_of(model), *model.graph.output)]
    is_fixed = any(size[0].HasField("dim_value") for size in sizes if size)
    for images in batches:
        yield from [images] if is_fixed else np.split(images, len(images))


def _reduction(tensor: str) -> Iterator[NodeProto]:
    """Nodes that compute the largest finite magnitude of a tensor and the least above 0, each of shape (1,)."""

    def node(operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> NodeProto:
        return helper.make_node(operator, inputs, [_named(tensor, output)], **attributes)

    magnitude, finite, nonzero = (_named(tensor, name) for name in ("magnitude", "finite", "nonzero"))
    zero, infinity, one_number = (_named(MAGNITUDES, name) for name in ("zero", "infinity", "one_number"))
    yield node("Abs", [tensor], "magnitude")
    yield node("IsInf", [magnitude], "is_infinite")
    yield node("Where", [_named(tensor, "is_infinite"), zero, magnitude], "finite")
    yield node("Greater", [finite, zero], "is_nonzero")
    yield node("Where", [_named(tensor, "is_nonzero"), finite, infinity], "nonzero")
    for operator, values, end in (("ReduceMax", finite, "largest"), ("ReduceMin", nonzero, "least")):
        yield node(operator, [values], f"{end}_scalar", keepdims=0)
        yield node("Reshape", [_named(tensor, f"{end}_scalar"), one_number], end)


def _named(tensor: str, part: str) -> str:
    return f"{tensor}/{MAGNITUDES}/{part}"


def _too_small(model: ModelProto, measured: Mapping[str, Magnitudes]) -> set[str]:
    """Divisors with any value below 2⁻¹⁷, normalized tensors with all values below it, and the small tensors before."""
    makers = {name: node for node in model.graph.node for name in node.output}
    waiting = [name for node in model.graph.node for name in divisors_of(node)]
    small, vanishing = set[str](), {name for name, magnitude in measured.items() if magnitude.vanishes}
    while waiting:
        name = waiting.pop()
        if name in small or name not in measured or measured[name].least >= COARSE:
            continue
        small.add(name)
        maker = makers.get(name)
        if maker is not None and maker.op_type in CARRY_SMALLNESS:
            waiting.extend(maker.input)
    waiting = list(_normalized(model))
    while waiting:
        name = waiting.pop()
        if name in vanishing - small:
            small.add(name)
            waiting.extend(makers[name].input if name in makers else ())
    return small


def _normalized(model: ModelProto) -> Iterator[str]:
    """Tensors whose magnitude changes: the inputs of norms, and dividends."""
    inside_norms = {name for norm in written_out_norms(model) for name in norm.inner}
    for node in model.graph.node:
        if node.op_type == "Div" or squares_in(node):
            yield node.input[0]
        elif inside_norms.intersection(node.output):
            yield from node.input
