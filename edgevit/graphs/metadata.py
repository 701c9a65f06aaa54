"""edgevit's metadata in an ONNX file: IOSpec, session options, trained ranges."""

from __future__ import annotations

from typing import Any

import onnx
from onnx import ModelProto, TensorProto
from pydantic import Field, TypeAdapter, ValidationError

from edgevit.artifacts import (
    Frozen,
    IOSpec,
    Preprocess,
    TensorSpec,
    numbers,
)
from edgevit.errors import ArtifactError
from edgevit.graphs.class_scores import LOGITS
from edgevit.graphs.outputs import ClassOutput, class_output, described, meaning_of, shape_of
from edgevit.graphs.tensors import inputs_of
from edgevit.model_file import RuntimeOptions, options_from_json
from edgevit.models.ranges import Range

IOSPEC_KEY = "edgevit.iospec"
SESSION_OPTIONS_KEY = "edgevit.session_options"
RANGES_KEY = "edgevit.trained_ranges"
LONGEST_REASON = 200  # characters of a reason; it holds names from the file
_JSON_OBJECT = TypeAdapter(dict[str, Any])


class TensorRanges(Frozen):
    """Trained ranges of activations in the metadata of a float file.

    Attributes:
        runtime: the runtime whose dialect the ranges were trained for.
        tensors: lowest and highest value by the tensor's name.
        reduce_range: whether weights were rounded to 7 bits.
    """

    runtime: str
    reduce_range: bool = False
    tensors: dict[str, Range] = Field(min_length=1)


def iospec_of_onnx(model: ModelProto, where: object) -> IOSpec:
    """The IOSpec in a model's metadata; for a model of another tool, the IOSpec inferred from its graph.

    An inferred IOSpec names the classes "0", "1", … and normalizes images with ImageNet's mean and std. Raises
    ArtifactError if the model is not an image classifier, or if the IOSpec describes another graph.
    """
    return written_iospec(model, where) or inferred_iospec(model, class_output(model, where), where)


def with_class_output(spec: IOSpec, output: ClassOutput) -> IOSpec:
    """An IOSpec with another class output. The class names stay if the number of classes does."""
    scores = TensorSpec(name=output.name, shape=output.shape, layout="NC", meaning=output.meaning)
    names = spec.classes if len(spec.classes) == output.num_classes else numbers(output.num_classes)
    others = tuple(tensor for tensor in spec.outputs[1:] if tensor.name != output.name)
    return spec.model_copy(update={"outputs": (scores, *others), "classes": names})


def written_iospec(model: ModelProto, where: object) -> IOSpec | None:
    """The IOSpec in a model's metadata; None for a model of another tool.

    It describes the input and the outputs that edgevit reads; the graph may have further outputs.

    Raises ArtifactError if it cannot be read, or describes another graph.
    """
    written = _metadata(model).get(IOSPEC_KEY)
    if written is None:
        return None
    try:
        spec = IOSpec.model_validate_json(written)
    except ValidationError as error:
        raise _unreadable(IOSPEC_KEY, error, where) from None
    _check_graph_has(spec, model, where)
    return _with_meaning(spec, model)


def runtime_options_of(model: ModelProto, where: object) -> RuntimeOptions:
    """The runtime's options in a model's metadata; ONNX Runtime's defaults for a model of another tool."""
    written = _metadata(model).get(SESSION_OPTIONS_KEY, "{}")
    try:
        return options_from_json(_JSON_OBJECT.validate_json(written))
    except ValidationError as error:
        raise _unreadable(SESSION_OPTIONS_KEY, error, where) from None


def carried_ranges(model: ModelProto, where: object) -> TensorRanges | None:
    """The trained ranges that a model carries as the export of a checkpoint from a qat stage; None without any."""
    written = _metadata(model).get(RANGES_KEY)
    try:
        return None if written is None else TensorRanges.model_validate_json(written)
    except ValidationError as error:
        raise _unreadable(RANGES_KEY, error, where) from None


def trained_ranges_in(model: ModelProto, where: object) -> TensorRanges:
    """The trained ranges that a model carries. Raises ArtifactError if there are none."""
    ranges = carried_ranges(model, where)
    if ranges is None:
        raise ArtifactError(
            "the model carries no trained ranges",
            where=where,
            got="calibrator: trained",
            expected="the float32 export of a checkpoint from a qat stage",
            next="set calibrator: minmax, or train with a qat stage first",
        )
    return ranges


def _metadata(model: ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def _unreadable(key: str, error: ValidationError, where: object) -> ArtifactError:
    problem = error.errors()[0]
    at = "".join(f"{part}: " for part in problem["loc"][-1:])
    return ArtifactError(f"{key} cannot be read", where=where, got=f"{at}{problem['msg']}"[:LONGEST_REASON])


def _check_graph_has(spec: IOSpec, model: ModelProto, where: object) -> None:
    outputs = {value.name: value for value in model.graph.output}
    described_names = ([tensor.name for tensor in spec.inputs], [tensor.name for tensor in spec.outputs])
    graph_names = ([value.name for value in inputs_of(model)], list(outputs))
    if described_names[0] != graph_names[0] or not outputs.keys() >= set(described_names[1]):
        raise ArtifactError(
            f"{IOSPEC_KEY} names other inputs and outputs than the graph has",
            where=where,
            got=described_names,
            expected=graph_names,
        )
    scores = shape_of(outputs[spec.outputs[0].name])
    if len(scores) != 2 or not isinstance(scores[1], int):
        return
    if len(spec.classes) not in (scores[1], max(2, scores[1])):  # a written file may have a single class
        raise ArtifactError(
            f"{IOSPEC_KEY} names another number of classes than the graph has",
            where=where,
            got=len(spec.classes),
            expected=max(2, scores[1]),
        )


def _with_meaning(spec: IOSpec, model: ModelProto) -> IOSpec:
    """The IOSpec with the meaning of its class output from the graph, which earlier versions did not infer."""
    scores = next(value for value in model.graph.output if value.name == spec.outputs[0].name)
    first, *others = spec.outputs
    if first.meaning != LOGITS or (meaning := meaning_of(model, scores)) == LOGITS:
        return spec
    return spec.model_copy(update={"outputs": (first.model_copy(update={"meaning": meaning}), *others)})


def inferred_iospec(model: ModelProto, output: ClassOutput, where: object) -> IOSpec:
    """The IOSpec inferred from a graph. Raises ArtifactError if the model does not take one image."""
    images = inputs_of(model)
    if len(images) != 1 or not _is_image(images[0]):
        raise ArtifactError(
            "the model does not take one image",
            where=where,
            got=", ".join(map(described, images)) or "no input",
            expected="one float32 input (batch, 3, height, width) of fixed height and width",
        )
    batch, *sizes = shape_of(images[0])
    if isinstance(batch, str) and isinstance(output.shape[0], int):
        batch = output.shape[0]  # a Reshape node fixes it
    shape = (batch, *sizes)
    return IOSpec(
        inputs=(TensorSpec(name=images[0].name, shape=shape, layout="NCHW", meaning="RGB image"),),
        outputs=(TensorSpec(name=output.name, shape=output.shape, layout="NC", meaning=output.meaning),),
        preprocess=Preprocess(height=int(shape[2]), width=int(shape[3])),
        classes=numbers(output.num_classes),
    )


def _is_image(value: onnx.ValueInfoProto) -> bool:
    shape = shape_of(value)
    fixed = len(shape) == 4 and shape[1] == 3 and all(isinstance(size, int) for size in shape[2:])
    return fixed and value.type.tensor_type.elem_type == TensorProto.FLOAT
