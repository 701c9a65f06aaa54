"""Which nodes of a graph each kernel of a runtime computes, from the nodes that the runtime tells.

A runtime that fuses nodes often tells the last one only: of Conv → BatchNormalization → Relu, the Relu.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from onnx import NodeProto

from edgevit.graphs.graph import OPERANDS, UNCOUNTED, Graph

PRODUCTS = {*OPERANDS, *UNCOUNTED}
# They read as many bytes of their first input as they write. ONNX Runtime's names, and OpenVINO's.
SELECTIONS = {"Gather", "GatherND", "Slice", "StridedSlice"}
OF_SHAPES = {"Shape", "Size"}  # a runtime computes them at load


def completed(told: Sequence[Collection[int]], source: Graph) -> list[tuple[int, ...]]:
    """The nodes in each kernel, by their places in the graph, with those that the runtime does not tell.

    - A product goes to the kernel that its value reaches through untold nodes, with these nodes.
    - Another node goes to the kernel before it: to the last of them, which alone has all that the node reads.
    - A node before all kernels goes to the kernel that reads it.

    A node that computes the same as a told one has been left out by the runtime.

    Args:
        told: of each kernel, in the order of execution.
    """
    kernels = _Kernels(told, source)
    for kernel, places in enumerate(told):
        kernels.take_products_before(kernel, places)
    kernels.take_nodes_behind()
    for kernel, places in enumerate(told):
        kernels.take(kernel, kernels.untold_before(places))
    return [tuple(sorted(places)) for places in kernels.places]


class _Kernels:
    """The nodes of each kernel so far, by their places.

    Attributes:
        places: of each kernel.
        kernel: of each node that is in a kernel; a node told by several is in the first.
    """

    def __init__(self, told: Sequence[Collection[int]], source: Graph) -> None:
        self._source = source
        self._place = {name: place for place, node in enumerate(source.nodes) for name in node.output if name}
        self.places = [set(places) for places in told]
        self.kernel = dict[int, int]()
        for kernel, places in enumerate(told):
            for place in places:
                self.kernel.setdefault(place, kernel)
        for twins in _twins(source):
            found = [self.kernel[place] for place in twins if place in self.kernel]
            self.kernel.update((place, found[0]) for place in twins if found and place not in self.kernel)

    def take(self, kernel: int, places: Collection[int]) -> None:
        self.places[kernel].update(places)
        self.kernel.update(dict.fromkeys(places, kernel))

    def take_products_before(self, kernel: int, places: Collection[int]) -> None:
        """Products in no kernel whose values reach `places`, with the nodes between."""
        untold = self.untold_before(places)
        kept = set[int]()
        for place in sorted(untold):
            if self._source.nodes[place].op_type in PRODUCTS or kept.intersection(self._before(place)):
                kept.add(place)
        self.take(kernel, kept)

    def take_nodes_behind(self) -> None:
        """Nodes in no kernel that read what a kernel makes."""
        for place, node in enumerate(self._source.nodes):
            makers = [self.kernel[before] for before in self._before(place) if before in self.kernel]
            if place not in self.kernel and makers and node.op_type not in OF_SHAPES:
                self.take(max(makers), [place])

    def untold_before(self, places: Collection[int]) -> set[int]:
        """The nodes in no kernel that lead to `places` through such nodes."""
        waiting, found = list(places), set[int]()
        while waiting:
            untold = {before for before in self._before(waiting.pop()) if before not in self.kernel} - found
            found |= untold
            waiting += untold
        return found

    def _before(self, place: int) -> Iterator[int]:
        """The places of the nodes whose values a node reads."""
        return (self._place[name] for name in self._source.nodes[place].input if name in self._place)


def _twins(source: Graph) -> list[list[int]]:
    """The places of nodes that compute the same of the same tensors."""
    same, twins = dict[str, str](), dict[tuple[object, ...], list[int]]()
    for place, node in enumerate(source.nodes):
        key = _computation(node, [same.get(name, name) for name in node.input])
        twins.setdefault(key, []).append(place)
        first = source.nodes[twins[key][0]]
        same.update(zip(node.output, first.output, strict=True))
    return [places for places in twins.values() if len(places) > 1]


def _computation(node: NodeProto, inputs: Sequence[str]) -> tuple[object, ...]:
    attributes = sorted(attribute.SerializeToString(deterministic=True) for attribute in node.attribute)
    return node.op_type, node.domain, len(node.output), *inputs, *attributes
