"""The tensors inside a graph: which can be further outputs, and which come before which."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from onnx import ModelProto, NodeProto, TensorProto, helper

from edgevit.checking.shapes import for_batch_of
from edgevit.graphs.guard import with_functions_inlined
from edgevit.graphs.tensors import inputs_of, types_and_shapes
from edgevit.graphs.walk import names_read, with_unique_node_names

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)
# As an output, the float form of a quantized tensor would part the product behind it from its Q/DQ pair.
LEFT_OUT = ("QuantizeLinear", "DequantizeLinear")
SIZES = (1, 2)  # batch sizes by which the batch is told from other dimensions


@dataclass(frozen=True)
class InnerTensor:
    """A float tensor that is computed from the image.

    Attributes:
        node, operator: that compute it.
        type: TensorProto's number.
        shape: without the batch.
    """

    name: str
    node: str
    operator: str
    type: int
    shape: tuple[int, ...]


class InnerTensors:
    """The tensors of a graph that can be further outputs, in the order of the graph.

    They are float, hold the batch in their first dimension, and have a known shape behind it.

    Args:
        model: functions are inlined, and each node of the copy has a unique name.
        where: the file, for errors.
    """

    def __init__(self, model: ModelProto, where: object) -> None:
        self.model = with_unique_node_names(with_functions_inlined(model, where))
        nodes: list[NodeProto] = list(self.model.graph.node)
        self._maker = {name: node for node in nodes for name in node.output if name}
        self.tensors = tuple(self._tensors())
        self.order = {name: place for place, name in enumerate(self._maker)}

    def before(self, names: Iterable[str]) -> set[str]:
        """The names of all tensors that these are computed from."""
        found, waiting = set[str](), list(names)
        while waiting:
            maker = self._maker.get(waiting.pop())
            read = set(names_read(maker)) - found if maker is not None else set()
            found |= read
            waiting.extend(read)
        return found

    def maker(self, name: str) -> NodeProto:
        """The node that computes a tensor."""
        return self._maker[name]

    def with_outputs(self, tensors: Sequence[InnerTensor], batch: int | str) -> ModelProto:
        """A copy of the graph with these tensors as further outputs."""
        marked = ModelProto()
        marked.CopyFrom(self.model)
        marked.graph.output.extend(
            helper.make_tensor_value_info(tensor.name, tensor.type, (batch, *tensor.shape)) for tensor in tensors
        )
        return marked

    def _tensors(self) -> Iterable[InnerTensor]:
        types, _ = types_and_shapes(self.model)
        small, large = (types_and_shapes(for_batch_of(self.model, size))[1] for size in SIZES)
        outputs = {output.name for output in self.model.graph.output}
        reached = {value.name for value in inputs_of(self.model)}
        for node in self.model.graph.node:
            if not reached.isdisjoint(names_read(node)):
                reached.update(node.output)
            for name in node.output if node.op_type not in LEFT_OUT else ():
                shape = _shape_behind_batch(small.get(name), large.get(name))
                is_float = types.get(name) in FLOATS
                if name in reached - outputs and is_float and shape is not None and _is_plain(name):
                    yield InnerTensor(name, node.name, node.op_type, types[name], shape)


def _shape_behind_batch(
    small: tuple[int | None, ...] | None, large: tuple[int | None, ...] | None
) -> tuple[int, ...] | None:
    """The shape behind the batch, from the shapes for two batch sizes; None if it is unknown, or holds the batch.

    With a fixed batch size both shapes are equal. Their first dimension is then taken for the batch.
    """
    if not small or not large or None in small or small[1:] != large[1:]:
        return None
    if small[0] != large[0] and (small[0], large[0]) != SIZES:
        return None
    return tuple(size for size in small[1:] if size is not None)


def _is_plain(name: str) -> bool:
    """Whether trtexec's JSON, which escapes nothing, can hold a name."""
    return name.isprintable() and not set(name) & {'"', "\\"}
