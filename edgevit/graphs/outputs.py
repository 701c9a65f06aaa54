"""The class output of a graph, and the meaning of its values."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from edgevit.errors import ArtifactError, did_you_mean, listed
from edgevit.graphs.class_scores import INDEPENDENT, LOGITS, ONE_LOGIT, ONE_PROBABILITY, PROBABILITIES
from edgevit.graphs.guard import with_functions_inlined
from edgevit.graphs.limits import MOST_CLASSES
from edgevit.graphs.walk import names_read

Shape = tuple[int | str, ...]

CLASS_NAMES = re.compile(r"logit|prob|score|class|label|pred|softmax|output", re.IGNORECASE)
OTHER_NAMES = re.compile(r"feat|embed|hidden|pool|aux", re.IGNORECASE)
# Operators that keep the values of their input.
KEEP_VALUES = (
    "Cast", "Clip", "DequantizeLinear", "Dropout", "Flatten", "Identity", "QuantizeLinear", "Reshape", "Squeeze",
)  # fmt: skip


@dataclass(frozen=True)
class ClassOutput:
    """The output of a graph that gives the classes.

    Attributes:
        meaning: of its values, a constant of `class_scores`.
        others: further outputs that may give the classes.
        why: the reason for this output; "" if it is the only one, or the user named it.
    """

    name: str
    shape: Shape
    meaning: str
    others: tuple[str, ...] = ()
    why: str = ""

    @property
    def num_classes(self) -> int:
        """The number of columns; 2 for a single column."""
        return max(2, int(self.shape[1]))

    def notes(self) -> list[str]:
        """Sentences for the user about the choice and the meaning of the output."""
        notes = []
        if self.why:
            others = listed([f"'{name}'" for name in self.others])
            why = f"{self.why} (edgevit describe --output chooses)"
            notes.append(f"output '{self.name}' is taken for the classes, not {others}: {why}")
        if self.meaning in MEANING_NOTES:
            notes.append(f"output '{self.name}' {MEANING_NOTES[self.meaning]}")
        return notes


MEANING_NOTES = {
    PROBABILITIES: "holds probabilities, which serve as confidences",
    INDEPENDENT: "holds independent probabilities (sigmoid): confidences of several labels need not add up to 100%",
    ONE_LOGIT: "is one number for two classes: it is taken for the score of class 1",
    ONE_PROBABILITY: "is one number for two classes: it is taken for the probability of class 1",
}


def class_output(model: ModelProto, where: object, name: str | None = None, classes: int | None = None) -> ClassOutput:
    """The output that gives the classes.

    If several outputs may give the classes, these are preferred, in this order: outputs with one column per class;
    outputs that are computed from other outputs; outputs named logits, scores or the like; the first output.

    Args:
        name: of the output; None to choose it.
        classes: the number of classes; None if it is unknown.

    Raises:
        ArtifactError: no output fits, or the named output does not.
    """
    fitting = [value for value in model.graph.output if _may_be_scores(value)]
    if name is not None:
        fitting = [value for value in _named(name, model, where) if _may_be_scores(value)]
    if not fitting:
        raise ArtifactError(
            "the model gives no class scores",
            where=where,
            got=", ".join(map(described, model.graph.output)) or "no output",
            expected="a float32 output (batch, classes) with a fixed number of classes",
        )
    taken, why = _best(fitting, model, classes)
    shape = shape_of(taken)
    if int(shape[1]) > MOST_CLASSES:
        raise ArtifactError("the model has too many classes", where=where, got=shape[1], expected=MOST_CLASSES)
    others = tuple(value.name for value in fitting if value is not taken)
    return ClassOutput(taken.name, shape, meaning_of(model, taken), others, why)


def meaning_of(model: ModelProto, output: ValueInfoProto) -> str:
    """The meaning of an output (batch, classes), inferred from the operators before it."""
    operator = _last_operator(model, output.name)
    one_number = shape_of(output)[1:] == (1,)
    if operator in ("Sigmoid", "Softmax"):
        meaning = INDEPENDENT if operator == "Sigmoid" else PROBABILITIES
        return ONE_PROBABILITY if one_number else meaning
    return ONE_LOGIT if one_number else LOGITS


def shape_of(value: ValueInfoProto) -> Shape:
    """The declared shape; an open size is a name."""
    dims = value.type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "batch" for dim in dims)


def described(value: ValueInfoProto) -> str:
    """`logits float (batch, 10)`"""
    dtype = element_type_name(value.type.tensor_type.elem_type)
    return f"{value.name} {dtype} ({', '.join(map(str, shape_of(value)))})"


def element_type_name(number: int) -> str:
    """ONNX's name of an element type in lower case; the number itself if ONNX has no such type."""
    return str(TensorProto.DataType.Name(number)).lower() if number in TensorProto.DataType.values() else str(number)


def _may_be_scores(value: ValueInfoProto) -> bool:
    shape, tensor = shape_of(value), value.type.tensor_type
    return len(shape) == 2 and isinstance(shape[1], int) and shape[1] > 0 and tensor.elem_type == TensorProto.FLOAT


def _named(name: str, model: ModelProto, where: object) -> list[ValueInfoProto]:
    outputs = [value for value in model.graph.output if value.name == name]
    if not outputs:
        names = [value.name for value in model.graph.output]
        raise ArtifactError(
            f"the graph has no output '{name}'",
            where=where,
            expected=", ".join(map(described, model.graph.output)),
            next=did_you_mean(name, names),
        )
    return outputs


def _best(fitting: Sequence[ValueInfoProto], model: ModelProto, classes: int | None) -> tuple[ValueInfoProto, str]:
    """The preferred output, and the reason; "it comes first" if nothing else decides."""
    inner = _tensors_before(model, fitting)
    reasons: dict[str, Callable[[ValueInfoProto], object]] = {
        f"it has {classes} columns, one for each class": lambda value: _fits(value, classes),
        "the graph computes it from the others": lambda value: value.name not in inner,
        "its name denotes scores": lambda value: CLASS_NAMES.search(value.name) and not OTHER_NAMES.search(value.name),
        "the names of the others denote something else": lambda value: not OTHER_NAMES.search(value.name),
    }
    remaining, why = list(fitting), ""
    for reason, holds in reasons.items():
        preferred = [value for value in remaining if holds(value)]
        if preferred and len(preferred) < len(remaining):
            remaining, why = preferred, reason
    return remaining[0], why if len(remaining) == 1 else "it comes first"


def _fits(value: ValueInfoProto, classes: int | None) -> bool:
    return classes is None or max(2, int(shape_of(value)[1])) == classes


def _tensors_before(model: ModelProto, outputs: Sequence[ValueInfoProto]) -> set[str]:
    """Names of all tensors from which any of these outputs is computed."""
    makers = {name: node for node in model.graph.node for name in node.output}
    names: set[str] = set()
    to_visit = [value.name for value in outputs]
    while to_visit:
        maker = makers.get(to_visit.pop())
        for name in names_read(maker) if maker is not None else ():
            if name not in names:
                names.add(name)
                to_visit.append(name)
    return names


def _last_operator(model: ModelProto, name: str) -> str:
    """The operator that computes the values of an output, before operators that keep values; "" if there is none."""
    makers = {output: node for node in _nodes_inlined(model) for output in node.output if output}
    node = makers.get(name)
    seen: set[str] = set()
    while node is not None and node.op_type in KEEP_VALUES and node.input and node.input[0] not in seen:
        seen.add(node.input[0])
        node = makers.get(node.input[0])
    if (
        node is None
        or node.domain
        or any(attribute.name == "axis" and attribute.i == 0 for attribute in node.attribute)
    ):
        return ""  # along axis 0 a softmax is over the images
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    return "Softmax" if _is_written_out_softmax(node, makers, stored) else node.op_type


def _nodes_inlined(model: ModelProto) -> list[NodeProto]:
    """The nodes of the main graph with functions inlined, whatever their opsets."""
    if not model.functions:
        return list(model.graph.node)
    bare = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    bare.graph.node.extend(model.graph.node)
    bare.graph.output.extend(model.graph.output)
    for function in bare.functions:
        for entry in function.opset_import:
            entry.version = next((used.version for used in model.opset_import if used.domain == entry.domain), 1)
    return list(with_functions_inlined(bare, model.graph.name).graph.node)


def _is_written_out_softmax(
    node: NodeProto, makers: Mapping[str, NodeProto], stored: Mapping[str, TensorProto]
) -> bool:
    """Whether a node divides exponentials by their sum over the classes."""
    if node.op_type != "Div" or len(node.input) != 2:
        return False
    dividend, divisor = (makers.get(name) for name in node.input)
    if dividend is None or divisor is None:
        return False
    divides_by_sum = (dividend.op_type, divisor.op_type) == ("Exp", "ReduceSum") and divisor.input[0] == node.input[0]
    return divides_by_sum and _axes(divisor, makers, stored) in ([-1], [1])


def _axes(node: NodeProto, makers: Mapping[str, NodeProto], stored: Mapping[str, TensorProto]) -> list[int]:
    """The axes of a ReduceSum, by an attribute or a constant; empty if they are unknown."""
    if len(node.input) < 2:
        return [axis for attribute in node.attribute if attribute.name == "axes" for axis in attribute.ints]
    name, maker = node.input[1], makers.get(node.input[1])
    if maker is not None and maker.op_type == "Constant":
        axes = helper.get_attribute_value(maker.attribute[0])
    else:
        axes = stored.get(name, ())
    values = numpy_helper.to_array(axes) if isinstance(axes, TensorProto) else np.asarray(axes)
    return [int(axis) for axis in values.reshape(-1)] if values.dtype == np.int64 else []
