"""Which output of a graph gives the classes, and what that output holds."""

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

CALLED_CLASSES = re.compile(r"logit|prob|score|class|label|pred|softmax|output", re.IGNORECASE)
CALLED_OTHERWISE = re.compile(r"feat|embed|hidden|pool|aux", re.IGNORECASE)
# Operators behind which probabilities are still the probabilities that they were.
KEEP_VALUES = (
    "Cast", "Clip", "DequantizeLinear", "Dropout", "Flatten", "Identity", "QuantizeLinear", "Reshape", "Squeeze",
)  # fmt: skip


@dataclass(frozen=True)
class ClassOutput:
    """The output of a graph that gives the classes.

    Attributes:
        meaning: what it holds, one of the meanings in `answers`.
        others: the outputs that might give the classes too.
        why: why it is taken before the others; "" where there are none, or it was asked for.
    """

    name: str
    shape: Shape
    meaning: str
    others: tuple[str, ...] = ()
    why: str = ""

    @property
    def num_classes(self) -> int:
        """Two where the output is one number."""
        return max(2, int(self.shape[1]))

    def notes(self) -> list[str]:
        """What a user should know of the choice, a sentence each."""
        found = []
        if self.why:
            others = listed([f"'{name}'" for name in self.others])
            why = f"{self.why} (edgevit describe --output chooses)"
            found.append(f"output '{self.name}' is taken for the classes, not {others}: {why}")
        if self.meaning in SAID:
            found.append(f"output '{self.name}' {SAID[self.meaning]}")
        return found


SAID = {
    PROBABILITIES: "holds probabilities: they are confidences as they are",
    INDEPENDENT: "holds independent probabilities, by a sigmoid: confidences of several labels need not add up to 100%",
    ONE_LOGIT: "is one number for two classes: it is taken for the score of class 1",
    ONE_PROBABILITY: "is one number for two classes: it is taken for the probability of class 1",
}


def class_output(model: ModelProto, where: object, name: str | None = None, classes: int | None = None) -> ClassOutput:
    """The output that gives the classes.

    Of several that may, outputs as wide as the number of classes come first; then the last in the graph, which is made
    from others; then the one that is called logits, scores or the like; then the first.

    Args:
        name: the output to take.
        classes: how many there are, where that is known.

    Raises:
        ArtifactError: no output fits, or the named one does not.
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
    """What an output (batch, classes) holds, as far as the operators tell that make it."""
    operator = _last_operator(model, output.name)
    one_number = shape_of(output)[1:] == (1,)
    if operator in ("Sigmoid", "Softmax"):
        several = INDEPENDENT if operator == "Sigmoid" else PROBABILITIES
        return ONE_PROBABILITY if one_number else several
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
    """ONNX's name of an element type in lower case; the number itself where ONNX has no such type."""
    return str(TensorProto.DataType.Name(number)).lower() if number in TensorProto.DataType.values() else str(number)


def _may_be_scores(value: ValueInfoProto) -> bool:
    shape, tensor = shape_of(value), value.type.tensor_type
    return len(shape) == 2 and isinstance(shape[1], int) and shape[1] > 0 and tensor.elem_type == TensorProto.FLOAT


def _named(name: str, model: ModelProto, where: object) -> list[ValueInfoProto]:
    found = [value for value in model.graph.output if value.name == name]
    if not found:
        names = [value.name for value in model.graph.output]
        raise ArtifactError(
            f"the graph has no output '{name}'",
            where=where,
            expected=", ".join(map(described, model.graph.output)),
            next=did_you_mean(name, names),
        )
    return found


def _best(fitting: Sequence[ValueInfoProto], model: ModelProto, classes: int | None) -> tuple[ValueInfoProto, str]:
    """The output to take, and why where there are others."""
    inner = _made_from(model, fitting)
    reasons: dict[str, Callable[[ValueInfoProto], object]] = {
        f"it has {classes} columns, one for each class": lambda value: _fits(value, classes),
        "the graph makes it from the others": lambda value: value.name not in inner,
        "its name says so": lambda value: CALLED_CLASSES.search(value.name) and not CALLED_OTHERWISE.search(value.name),
        "the names of the others say what else they are": lambda value: not CALLED_OTHERWISE.search(value.name),
    }
    left, why = list(fitting), ""
    for reason, holds in reasons.items():
        better = [value for value in left if holds(value)]
        if better and len(better) < len(left):
            left, why = better, reason
    return left[0], why if len(left) == 1 else "it comes first"


def _fits(value: ValueInfoProto, classes: int | None) -> bool:
    return classes is None or max(2, int(shape_of(value)[1])) == classes


def _made_from(model: ModelProto, outputs: Sequence[ValueInfoProto]) -> set[str]:
    """Names of all tensors from which any of these outputs is made."""
    makers = {name: node for node in model.graph.node for name in node.output}
    found: set[str] = set()
    to_visit = [value.name for value in outputs]
    while to_visit:
        maker = makers.get(to_visit.pop())
        for name in names_read(maker) if maker is not None else ():
            if name not in found:
                found.add(name)
                to_visit.append(name)
    return found


def _last_operator(model: ModelProto, name: str) -> str:
    """The operator that gives an output its values, past operators that keep them; "" where there is none."""
    makers = {output: node for node in _nodes_inlined(model) for output in node.output if output}
    node = makers.get(name)
    seen: set[str] = set()
    while node is not None and node.op_type in KEEP_VALUES and node.input and node.input[0] not in seen:
        seen.add(node.input[0])
        node = makers.get(node.input[0])
    if node is None or node.domain or any(one.name == "axis" and one.i == 0 for one in node.attribute):
        return ""  # along axis 0 a softmax is over the images
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    return "Softmax" if _is_written_out_softmax(node, makers, stored) else node.op_type


def _nodes_inlined(model: ModelProto) -> list[NodeProto]:
    """The nodes of the main graph, functions replaced by their nodes, in whatever version of their operators."""
    if not model.functions:
        return list(model.graph.node)
    bare = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    bare.graph.node.extend(model.graph.node)
    bare.graph.output.extend(model.graph.output)
    for function in bare.functions:
        for entry in function.opset_import:
            entry.version = next((own.version for own in model.opset_import if own.domain == entry.domain), 1)
    return list(with_functions_inlined(bare, model.graph.name).graph.node)


def _is_written_out_softmax(
    node: NodeProto, makers: Mapping[str, NodeProto], stored: Mapping[str, TensorProto]
) -> bool:
    """Whether a node divides exponentials by their sum over the classes."""
    if node.op_type != "Div" or len(node.input) != 2:
        return False
    above, below = (makers.get(name) for name in node.input)
    if above is None or below is None:
        return False
    is_of_sum = (above.op_type, below.op_type) == ("Exp", "ReduceSum") and below.input[0] == node.input[0]
    return is_of_sum and _axes(below, makers, stored) in ([-1], [1])


def _axes(node: NodeProto, makers: Mapping[str, NodeProto], stored: Mapping[str, TensorProto]) -> list[int]:
    """The axes of a sum, by an attribute or a constant; empty where they are not known."""
    if len(node.input) < 2:
        return [axis for one in node.attribute if one.name == "axes" for axis in one.ints]
    name, maker = node.input[1], makers.get(node.input[1])
    if maker is not None and maker.op_type == "Constant":
        held = helper.get_attribute_value(maker.attribute[0])
    else:
        held = stored.get(name, ())
    values = numpy_helper.to_array(held) if isinstance(held, TensorProto) else np.asarray(held)
    return [int(axis) for axis in values.reshape(-1)] if values.dtype == np.int64 else []
