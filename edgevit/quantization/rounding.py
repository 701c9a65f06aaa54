"""Rounding of a convolution's weights to integers that keeps the sum of each kernel and each channel."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper


def with_kept_sums(model: ModelProto, chosen: Iterable[NodeProto], largest: int) -> ModelProto:
    """A copy of a float graph in which the weights of chosen convolutions are multiples of their scales.

    A writer that rounds to the nearest integer then writes the integers of `integers_keeping_sums`. ONNX Runtime's
    writer enlarges the scale of a channel whose bias would not fit into 32 bits; these weights are rounded once more.

    Args:
        chosen: nodes of the graph; matrix products among them stay as they are.
        largest: the integer of a channel's largest weight.

    Returns:
        The copy, or the graph itself if no convolution is chosen.
    """
    kernels = {node.input[1] for node in chosen if node.op_type == "Conv"}
    if not kernels:
        return model
    rounded = ModelProto()
    rounded.CopyFrom(model)
    for tensor in rounded.graph.initializer:
        if tensor.name in kernels:
            weights = numpy_helper.to_array(tensor)
            integers, scales = integers_keeping_sums(weights, largest)
            tensor.CopyFrom(numpy_helper.from_array((integers * scales).astype(weights.dtype), tensor.name))
    return rounded


def integers_keeping_sums(
    weights: NDArray[np.float32], largest: int
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Integers of a convolution's weights, one scale a channel, whose errors nearly add up to 0.

    A convolution multiplies the mean of its inputs by the sum of its weights. Rounding to the nearest integer changes
    that sum. Here, some weights are rounded to their other neighbor: those with the largest errors, until the errors of
    each kernel add up to half a step at most. Then one weight in each of some kernels changes, until the errors of each
    channel add up to half a step at most; those of a kernel may add up to one step then.

    Guo et al. 2022, "SQuant: On-the-Fly Data-Free Quantization via Diagonal Hessian Approximation", algorithm 1.

    Args:
        weights: (outputs, inputs, …), finite.
        largest: the integer of a channel's largest weight.

    Returns:
        The integers, with the shape of the weights, and the scales, (outputs, 1, …).
    """
    magnitudes = np.abs(weights).max(axis=tuple(range(1, weights.ndim)), keepdims=True)
    scales = (magnitudes.astype(np.float64) / largest).astype(weights.dtype)
    scales[scales < np.finfo(weights.dtype).tiny] = 1  # as in the writer
    levels = (weights.astype(np.float64) / scales).reshape(*weights.shape[:2], math.prod(weights.shape[2:]))
    integers = np.round(levels)
    integers += _changes(integers - levels)
    errors = integers - levels
    kernels = _changes(errors.sum(axis=-1))[..., None]
    in_kernel = np.argmax(-kernels * errors, axis=-1, keepdims=True)
    np.put_along_axis(integers, in_kernel, np.take_along_axis(integers, in_kernel, axis=-1) + kernels, axis=-1)
    return integers.reshape(weights.shape), scales


def _changes(errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Steps of −1, 0 and 1 after which the errors along the last axis add up to half a step at most.

    The largest errors change, as few as possible.
    """
    sums = errors.sum(axis=-1, keepdims=True)
    counts, signs = np.abs(np.round(sums)), np.sign(sums)
    largest_first = np.argsort(-signs * errors, axis=-1, kind="stable")
    changes = np.zeros_like(errors)
    np.put_along_axis(changes, largest_first, np.where(np.arange(errors.shape[-1]) < counts, -signs, 0), axis=-1)
    return changes
