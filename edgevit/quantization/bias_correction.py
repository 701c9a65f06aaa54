"""Bias correction: the shift that rounding gives to the mean of a channel is subtracted from the layer's bias."""

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

IMAGES_USED = 32


@dataclass(frozen=True)
class _Layer:
    """A product or convolution with a bias that no other node reads.

    Attributes:
        output: name of its output; before the bias, if an Add node adds that.
        channel_axis: the axis of the output along which the bias lies.
    """

    node: str
    output: str
    bias: str
    channel_axis: int


def with_corrected_biases(
    model: CalibratedModel, placement: Placement, batches: Batches, threads: int, progress: Progress
) -> CalibratedModel:
    """The model with biases that give every channel of every integer layer the mean that it has in float.

    Layers are corrected in the order of the graph, so that each sees the corrected layers before it and no shift is
    corrected twice. Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction",
    section 4.2, with means over images.

    Args:
        placement: of the integers; the corrected biases fit this placement only.
        batches: input batches; the first 32 images are used.
    """
    layers = list(_layers(model, placement))
    progress.say(f"    biases of {len(layers)} of {len(model.nodes(placement))} layers are corrected")
    if not layers:
        return model
    images = _first_images(batches)
    float_means = _means(model.model, {layer.output: layer.channel_axis for layer in layers}, images, threads)
    rounded = _with_float_biases(model).quantized(placement).model
    outputs = {node.name: node.output[0] for node in rounded.graph.node}
    biases = {tensor.name: tensor for tensor in rounded.graph.initializer}
    with progress.bar("correct biases", len(layers), "layers") as bar:
        for layer in layers:
            output = outputs[layer.node]
            means = _means(_up_to(output, rounded), {output: layer.channel_axis}, images, threads)
            _add(biases[layer.bias], float_means[layer.output] - means[output])
            bar.advance()
    corrected = ModelProto()
    corrected.CopyFrom(model.model)
    own_biases = {layer.bias for layer in layers}
    for tensor in corrected.graph.initializer:
        if tensor.name in own_biases:
            tensor.CopyFrom(biases[tensor.name])
    return replace(model, model=corrected)


class BiasCorrection:
    """Corrects the biases of models, once for each graph, placement, choice of float layers and rounding."""

    def __init__(self, batches: Batches, threads: int, progress: Progress) -> None:
        self._batches, self._threads, self._progress = batches, threads, progress
        self._graphs: dict[int, ModelProto] = {}  # by id, which is another graph's once a graph is freed
        self._corrected: dict[tuple[int, Placement, frozenset[str], bool], CalibratedModel] = {}

    def __call__(self, model: CalibratedModel, placement: Placement) -> CalibratedModel:
        key = id(model.model), placement, model.kept_float, model.keeps_sums
        if key not in self._corrected:
            self._graphs[id(model.model)] = model.model
            self._corrected[key] = with_corrected_biases(model, placement, self._batches, self._threads, self._progress)
        return self._corrected[key]


def _layers(model: CalibratedModel, placement: Placement) -> Iterator[_Layer]:
    graph = model.model.graph
    weights = shapes_of_weights(model.model)
    readers = Counter(name for node in nodes_of(graph.node) for name in node.input)
    next_node = {name: node for node in graph.node for name in node.input if readers[name] == 1}
    for node in model.nodes(placement):
        output, biases, channel_axis = node.output[0], node.input[2:3], 1
        if node.op_type == "MatMul":
            add = next_node.get(output)
            biases = [name for name in add.input if name != output] if add and add.op_type == "Add" else []
            channel_axis = -1
        channels = weights[node.input[1]][0 if node.op_type == "Conv" else 1 - axis_of_inputs(node)]
        if biases and readers[biases[0]] == 1 and weights.get(biases[0]) == (channels,):
            yield _Layer(node.name, output, biases[0], channel_axis)


def _first_images(batches: Batches) -> list[NDArray[np.float32]]:
    images: list[NDArray[np.float32]] = []
    for batch in batches():
        images.append(batch)
        if sum(map(len, images)) >= IMAGES_USED:
            break
    return images


def _with_float_biases(model: CalibratedModel) -> CalibratedModel:
    """The model written with float32 biases, which can be changed in place."""
    options = {**model.dialect.writer_options, "QuantizeBias": False, "QDQDisableWeightAdjustForInt32Bias": True}
    return replace(model, dialect=replace(model.dialect, floats="float32", writer_options=options))


def _up_to(tensor: str, model: ModelProto) -> ModelProto:
    """The part of a graph that computes a tensor, with its nodes in order."""
    needed, part = {tensor}, ModelProto()
    part.CopyFrom(model)
    del part.graph.node[:], part.graph.output[:]
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            needed.update(name for inner in nodes_of([node]) for name in inner.input)
            part.graph.node.insert(0, node)
    return part


def _means(
    model: ModelProto, channel_axes: Mapping[str, int], images: Sequence[NDArray[np.float32]], threads: int
) -> dict[str, NDArray[np.float64]]:
    """The mean of each channel of some tensors. `channel_axes` gives the axis of the channels by the tensor's name."""
    sums: dict[str, NDArray[np.float64]] = {}
    with TemporaryDirectory() as folder:
        probe = ProbeSession(model, list(channel_axes), Path(folder), threads)
        for batch in images:
            for name, values in probe.run(batch).items():
                axis = channel_axes[name]
                by_channel = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
                sums[name] = sums.get(name, 0.0) + by_channel.mean(1, dtype=np.float64) * len(batch)
    count = sum(map(len, images))
    return {name: total / count for name, total in sums.items()}


def _add(bias: TensorProto, change: NDArray[np.float64]) -> None:
    values = numpy_helper.to_array(bias)
    bias.CopyFrom(numpy_helper.from_array((values + change.reshape(values.shape)).astype(values.dtype), bias.name))
