"""The shapes of all tensors of a graph, for one image or for one batch of a fixed size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from onnx import ModelProto, TensorShapeProto, ValueInfoProto, helper

from edgevit.errors import ArtifactError
from edgevit.graphs.guard import with_inferred_shapes
from edgevit.graphs.tensors import inputs_of
from edgevit.quantization.calibration import ProbeSession


def for_one_image(model: ModelProto) -> ModelProto:
    """A copy with batch size 1 in place of an open one, and with all shapes in its value_info."""
    return for_batch_of(model, 1)


def for_batch_of(model: ModelProto, size: int) -> ModelProto:
    """A copy with this batch size in place of an open one, and with all shapes in its value_info.

    Shapes are inferred. If sizes remain open, the graph runs once, on zeros.
    """
    fixed = with_inferred_shapes(_with_batch_of(model, size))
    known = _known(fixed)
    unknown = [name for node in fixed.graph.node for name in node.output if name and name not in known]
    if unknown:
        fixed.graph.value_info.extend(_measured(fixed, unknown))
    return fixed


def _with_batch_of(model: ModelProto, batch_size: int) -> ModelProto:
    fixed = ModelProto()
    fixed.CopyFrom(model)
    batch_names = set()
    for value in inputs_of(fixed):
        first = next(iter(value.type.tensor_type.shape.dim), None)
        if first is not None and not first.HasField("dim_value"):
            batch_names.add(first.dim_param)
            first.dim_value = batch_size
    for value in (*fixed.graph.value_info, *fixed.graph.output):
        for size in value.type.tensor_type.shape.dim:
            if size.HasField("dim_param"):
                _set_or_clear(size, batch_size if size.dim_param in batch_names else None)
    return fixed


def _set_or_clear(size: TensorShapeProto.Dimension, value: int | None) -> None:
    size.ClearField("dim_param")
    if value is not None:
        size.dim_value = value


def _known(model: ModelProto) -> set[str]:
    """Names of the tensors whose sizes are all known."""
    return {value.name for value in (*model.graph.value_info, *model.graph.output) if _is_known(value)}


def _is_known(value: ValueInfoProto) -> bool:
    tensor = value.type.tensor_type
    return tensor.HasField("shape") and all(size.HasField("dim_value") for size in tensor.shape.dim)


def _measured(model: ModelProto, names: Iterable[str]) -> Iterator[ValueInfoProto]:
    """The shapes of these tensors in a run on zeros; none if the graph does not run."""
    inputs = inputs_of(model)
    if len(inputs) != 1 or not _is_known(inputs[0]):
        return
    image = inputs[0]
    if image.type.tensor_type.elem_type not in helper.get_all_tensor_dtypes():
        return
    sizes = [size.dim_value for size in image.type.tensor_type.shape.dim]
    zeros = np.zeros(sizes, helper.tensor_dtype_to_np_dtype(image.type.tensor_type.elem_type))
    with TemporaryDirectory() as folder:
        try:
            tensors = ProbeSession(model, list(names), Path(folder), threads=1).run(zeros)
        except ArtifactError:
            return
    for name, values in tensors.items():
        yield helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(values.dtype), values.shape)
