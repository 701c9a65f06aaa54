"""Bias correction: what rounding moves the mean of a channel by is taken out of the layer's bias."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper

from edgevit.graphs.tensors import shapes_of_weights
from edgevit.graphs.walk import nodes_of
from edgevit.progress import Progress
from edgevit.quantization.calibration import Batches, ProbeSession
from edgevit.quantization.dialects import Placement, axis_of_inputs
from edgevit.quantization.ptq import CalibratedModel

LEAST_IMAGES = 32


@dataclass(frozen=True)
class _Layer:
    """A product or convolution with a bias that is its own.

    Attributes:
        made: its output, before the bias where that is added by the next node.
        channels: axis of `made` along which the bias lies.
    """

    node: str
    made: str
    bias: str
    channels: int


def with_corrected_biases(
    model: CalibratedModel, placement: Placement, batches: Batches, threads: int, progress: Progress
) -> CalibratedModel:
    """The same with biases that give every channel of every integer layer the mean that it has in float.

    Layer by layer in the order of the graph, each behind others that are corrected already: a mean moved in one layer
    is then not made up for twice. Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias
    Correction", section 4.2, with means taken over images.

    Args:
        placement: of the integers; the biases fit no other.
        batches: input batches, of which the first are used, until there are 32 images.
    """
    layers = list(_layers(model, placement))
    progress.say(f"    biases of {len(layers)} of {len(model.nodes(placement))} layers are corrected")
    if not layers:
        return model
    images = _first(batches)
    exact = _means(model.model, {layer.made: layer.channels for layer in layers}, images, threads)
    rounded = _with_float_biases(model).quantized(placement).model
    places = {node.name: node.output[0] for node in rounded.graph.node}
    biases = {tensor.name: tensor for tensor in rounded.graph.initializer}
    with progress.bar("correct biases", len(layers), "layers") as bar:
        for layer in layers:
            place = places[layer.node]
            found = _means(_up_to(place, rounded), {place: layer.channels}, images, threads)
            _add(biases[layer.bias], exact[layer.made] - found[place])
            bar.advance()
    corrected = ModelProto()
    corrected.CopyFrom(model.model)
    ours = {layer.bias for layer in layers}
    for tensor in corrected.graph.initializer:
        if tensor.name in ours:
            tensor.CopyFrom(biases[tensor.name])
    return replace(model, model=corrected)


class BiasCorrection:
    """Corrects a model for each placement, and for each choice of layers that stay float, once."""

    def __init__(self, batches: Batches, threads: int, progress: Progress) -> None:
        self._batches, self._threads, self._progress = batches, threads, progress
        self._done: dict[tuple[Placement, frozenset[str]], CalibratedModel] = {}

    def __call__(self, model: CalibratedModel, placement: Placement) -> CalibratedModel:
        key = placement, model.kept_float
        if key not in self._done:
            self._done[key] = with_corrected_biases(model, placement, self._batches, self._threads, self._progress)
        return self._done[key]


def _layers(model: CalibratedModel, placement: Placement) -> Iterator[_Layer]:
    graph = model.model.graph
    weights = shapes_of_weights(model.model)
    readers = Counter(name for node in nodes_of(graph.node) for name in node.input)
    next_node = {name: node for node in graph.node for name in node.input if readers[name] == 1}
    for node in model.nodes(placement):
        made, given, channels = node.output[0], node.input[2:3], 1
        if node.op_type == "MatMul":
            behind = next_node.get(made)
            given = [name for name in behind.input if name != made] if behind and behind.op_type == "Add" else []
            channels = -1
        outputs = weights[node.input[1]][0 if node.op_type == "Conv" else 1 - axis_of_inputs(node)]
        if given and readers[given[0]] == 1 and weights.get(given[0]) == (outputs,):
            yield _Layer(node.name, made, given[0], channels)


def _first(batches: Batches) -> list[NDArray[np.float32]]:
    images: list[NDArray[np.float32]] = []
    for batch in batches():
        images.append(batch)
        if sum(map(len, images)) >= LEAST_IMAGES:
            break
    return images


def _with_float_biases(model: CalibratedModel) -> CalibratedModel:
    """All in float32 but what is rounded, so that biases can be changed where they stand."""
    options = {**model.dialect.writer_options, "QuantizeBias": False, "QDQDisableWeightAdjustForInt32Bias": True}
    return replace(model, dialect=replace(model.dialect, floats="float32", writer_options=options))


def _up_to(tensor: str, model: ModelProto) -> ModelProto:
    """The part of a graph, its nodes in order, that makes a tensor."""
    needed, part = {tensor}, ModelProto()
    part.CopyFrom(model)
    del part.graph.node[:], part.graph.output[:]
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            needed.update(name for inner in nodes_of([node]) for name in inner.input)
            part.graph.node.insert(0, node)
    return part


def _means(
    model: ModelProto, channels: Mapping[str, int], images: Sequence[NDArray[np.float32]], threads: int
) -> dict[str, NDArray[np.float64]]:
    """The mean of each channel of tensors, given with the axis of their channels."""
    sums: dict[str, NDArray[np.float64]] = {}
    with TemporaryDirectory() as folder:
        probe = ProbeSession(model, list(channels), Path(folder), threads)
        for batch in images:
            for name, values in probe.run(batch).items():
                by_channel = np.moveaxis(values, channels[name], 0).reshape(values.shape[channels[name]], -1)
                sums[name] = sums.get(name, 0.0) + by_channel.mean(1, dtype=np.float64) * len(batch)
    count = sum(map(len, images))
    return {name: total / count for name, total in sums.items()}


def _add(bias: TensorProto, change: NDArray[np.float64]) -> None:
    values = numpy_helper.to_array(bias)
    bias.CopyFrom(numpy_helper.from_array((values + change.reshape(values.shape)).astype(values.dtype), bias.name))
