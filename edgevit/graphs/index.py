"""An index of a graph's tensors: which node makes each, which nodes read it, its value, type and shape."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property

from onnx import ModelProto, NodeProto

from edgevit.graphs.tensors import constants_of, types_and_shapes


class GraphIndex:
    """The main graph of a model, as it is.

    Attributes:
        nodes: in the order of the graph.
        constants: initializers and the tensors of Constant nodes, by name.
        maker: the node that makes each tensor; graph inputs and initializers have none.
        readers: the nodes of the main graph that read each tensor, each node once.
    """

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.nodes: list[NodeProto] = list(model.graph.node)
        self.constants = constants_of(model)
        self.maker = {name: node for node in self.nodes for name in node.output if name}
        self.readers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                self.readers[name].append(node)

    @cached_property
    def places(self) -> dict[str, int]:
        """The place of each node in the order of the graph, by its name."""
        return {node.name: place for place, node in enumerate(self.nodes)}

    def of_type(self, *operators: str) -> Iterator[NodeProto]:
        """Nodes of these operators, in the order of the graph."""
        return (node for node in self.nodes if node.op_type in operators)

    def element_type(self, name: str) -> int | None:
        """TensorProto's number of a tensor's type; None if it is unknown."""
        return self.constants[name].data_type if name in self.constants else self._types_and_shapes[0].get(name)

    def shape(self, name: str) -> tuple[int | None, ...] | None:
        """A tensor's shape, with None for an open size; None if it is unknown."""
        return tuple(self.constants[name].dims) if name in self.constants else self._types_and_shapes[1].get(name)

    @cached_property
    def _types_and_shapes(self) -> tuple[dict[str, int], dict[str, tuple[int | None, ...]]]:
        return types_and_shapes(self.model)
