"""The contents of a TensorRT engine: its layers, the precision of each product, fused attention, and what is untold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from edgevit.artifacts import Artifact, IOSpec, Json
from edgevit.checking.check import graph_of
from edgevit.checking.layers import kernels_of_engine
from edgevit.checking.plan import Kernel
from edgevit.checking.precision import Product, got_in_plan, products, unfused_attentions
from edgevit.graphs.files import read_onnx
from edgevit.graphs.graph import Graph
from edgevit.model_file import TargetInfo
from edgevit.profiling.layer_times import LayerTimes
from edgevit.targets.trtexec.commands import LAYERS

REGION = "a part of the network as one layer"
NO_NODE = "names no node of the ONNX file"
NO_TYPE = "tells no type"


@dataclass(frozen=True)
class EngineLayer:
    """A layer of an engine, in the order of execution.

    Attributes:
        nodes: the nodes of the ONNX file in it; where that file is not at hand, the nodes that the inspector names.
        reads, writes: types of the inputs and outputs, in TensorRT's names; "" if untold.
        bytes: that it reads and writes, with its weights if the inspector tells them; for one image if the batch size
            is open.
        untold: what the inspector does not tell: REGION, NO_NODE or NO_TYPE; "" if it tells all.
        ms: the median of its time; None if it was not timed.
    """

    name: str
    kind: str
    nodes: tuple[str, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    bytes: int
    is_product: bool
    is_attention: bool
    untold: str
    ms: float | None


@dataclass(frozen=True)
class EngineProduct:
    """A product of the ONNX file, and the name of the layer that computes it; "" if no layer names it."""

    product: Product
    layer: str


@dataclass(frozen=True)
class OpaqueShare:
    """The part of an engine of which the inspector does not tell everything: shares from 0 to 1.

    Attributes:
        time: with that of layers that the inspector does not name; None if the layers were not timed.
    """

    layers: float
    bytes: float
    time: float | None


@dataclass(frozen=True)
class EngineInspection:
    """The contents of an engine.

    Attributes:
        bytes: of the engine file.
        max_batch: the most images in a batch; None for a fixed batch size.
        products: None if the ONNX file that the engine was built from is not at hand.
        attentions, unfused: the number of attentions of the ONNX file, and those that are in no layer of their own.
        times: None if the layers were not timed.
    """

    path: Path
    machine: TargetInfo | None
    precision: str
    bytes: int
    max_batch: int | None
    spec: IOSpec
    layers: tuple[EngineLayer, ...]
    products: tuple[EngineProduct, ...] | None
    attentions: int
    unfused: tuple[str, ...]
    times: LayerTimes | None

    @property
    def opaque(self) -> OpaqueShare:
        """The shares of the layers that do not tell everything; of the time, also of those that are not told at all."""
        untold = [layer for layer in self.layers if layer.untold]
        time = None
        if self.times is not None:
            time = _share(sum(layer.ms or 0 for layer in untold) + self.elsewhere_ms, self.times.sum_ms)
        moved = _share(sum(layer.bytes for layer in untold), sum(layer.bytes for layer in self.layers))
        return OpaqueShare(_share(len(untold), len(self.layers)), moved, time)

    @property
    def elsewhere_ms(self) -> float:
        """The time of layers that the inspector does not name, in ms; 0 if the layers were not timed."""
        return self.times.elsewhere_ms([layer.name for layer in self.layers]) if self.times else 0.0

    @property
    def untold(self) -> dict[str, int]:
        """The number of layers by what the inspector does not tell of them."""
        return dict(Counter(layer.untold for layer in self.layers if layer.untold))

    def to_json(self) -> Json:
        """The whole inspection."""
        return {
            "path": str(self.path),
            "machine": self.machine.model_dump(mode="json") if self.machine else None,
            "precision": self.precision,
            "bytes": self.bytes,
            "max_batch": self.max_batch,
            "iospec": self.spec.model_dump(mode="json"),
            "layers": [asdict(layer) for layer in self.layers],
            "products": None
            if self.products is None
            else [{**asdict(product.product), "layer": product.layer} for product in self.products],
            "attentions": self.attentions,
            "unfused_attentions": list(self.unfused),
            "opaque": asdict(self.opaque),
            "untold": self.untold,
            "times": self.times.to_json() if self.times else None,
        }


def inspect_engine(engine: Artifact, source: Path | None, times: LayerTimes | None = None) -> EngineInspection:
    """Read the layers of an engine.

    Args:
        source: the ONNX file that it was built from. Without it, the precisions that were asked for are unknown.
        times: of its layers.

    Raises:
        ArtifactError: the layers cannot be read, or a file was altered.
    """
    kernels = kernels_of_engine(engine.file(LAYERS))
    graph = None if source is None else graph_of(read_onnx(source), source)
    file = engine.model_file
    ms = times.by_layer([kernel.name for kernel in kernels]) if times else [None] * len(kernels)
    return EngineInspection(
        path=engine.path,
        machine=file.bound_to,
        precision=file.precision,
        bytes=engine.manifest.files[file.name].size,
        max_batch=getattr(file.options, "max_batch", None),
        spec=engine.io,
        layers=tuple(_layer(kernel, graph, time) for kernel, time in zip(kernels, ms, strict=True)),
        products=None if graph is None else tuple(_products(graph, kernels)),
        attentions=0 if graph is None else len(graph.attentions),
        unfused=() if graph is None else tuple(unfused_attentions(graph, kernels)),
        times=times,
    )


def _layer(kernel: Kernel, graph: Graph | None, ms: float | None) -> EngineLayer:
    known = None if graph is None else {node.name for node in graph.nodes}
    nodes = kernel.nodes if known is None else tuple(node for node in kernel.nodes if node in known)
    return EngineLayer(
        name=kernel.name,
        kind=kernel.kind,
        nodes=nodes,
        reads=tuple(dict.fromkeys(tensor.type for tensor in kernel.inputs)),
        writes=tuple(dict.fromkeys(tensor.type for tensor in kernel.outputs)),
        bytes=kernel.bytes_moved,
        is_product=kernel.is_product,
        is_attention=kernel.is_attention,
        untold=_untold(kernel, nodes),
        ms=ms,
    )


def _untold(kernel: Kernel, nodes: Sequence[str]) -> str:
    if kernel.is_opaque:
        return REGION
    if not nodes:
        return NO_NODE
    types = (tensor.type for tensor in (*kernel.inputs, *kernel.constants, *kernel.outputs))
    is_told = bool(kernel.multiplied_type) if kernel.is_product else any(types)
    return "" if is_told else NO_TYPE


def _products(graph: Graph, kernels: Sequence[Kernel]) -> list[EngineProduct]:
    layers = _layers_by_node(kernels)
    return [
        EngineProduct(product, layers.get(product.node, "")) for product in products(graph, got_in_plan(graph, kernels))
    ]


def _layers_by_node(kernels: Sequence[Kernel]) -> Mapping[str, str]:
    """The layer that computes each node: of several that name it, the first that multiplies, or else the last."""
    by_node = {node: kernel.name for kernel in kernels for node in kernel.nodes}
    multiplying = {node: kernel.name for kernel in reversed(kernels) if kernel.is_product for node in kernel.nodes}
    return {**by_node, **multiplying}


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
