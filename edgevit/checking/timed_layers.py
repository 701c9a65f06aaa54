"""The times of a model's layers beside their modules, their work, and the roofline of the machine."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from edgevit.artifacts import Json
from edgevit.checking.check import graph_of
from edgevit.checking.shapes import for_batch_of
from edgevit.graphs.cost import macs
from edgevit.graphs.files import read_onnx
from edgevit.graphs.graph import INTEGER_PRODUCTS, OPERANDS, UNCOUNTED, Graph
from edgevit.graphs.modules import module_paths
from edgevit.profiling.layer_times import LayerTime, LayerTimes
from edgevit.profiling.roofline import Peaks, Placement, placed

# Kernels of ONNX Runtime and OpenVINO that multiply: without a product among their nodes, their work is not known.
PRODUCT_KERNELS = {
    *OPERANDS, *UNCOUNTED, *INTEGER_PRODUCTS, "FusedConv", "FusedGemm", "FusedMatMul",
    "Convolution", "Deconvolution", "FullyConnected", "ScaledDotProductAttention",
}  # fmt: skip


@dataclass(frozen=True)
class TimedLayer:
    """A layer of a model in its runtime.

    Attributes:
        module: the path of the module that it belongs to; "" if it is not known.
        nodes: the nodes of the ONNX file in it; empty if the runtime does not tell them.
        ms: the median of its time in a run.
        macs, bytes: multiply-accumulates of a run, and bytes read and written; None if they are not known.
        precision: in which it multiplies.
        placement: under the roofline; None if its work is not known, or no peaks were measured.
    """

    name: str
    operator: str
    module: str
    nodes: tuple[str, ...]
    ms: float
    macs: int | None
    bytes: int | None
    precision: str
    placement: Placement | None


@dataclass(frozen=True)
class Untimed:
    """The products of a file (convolutions, matrix products, attention) that are in no timed layer.

    Attributes:
        products, of_products: their number, and that of all products in the file.
        macs_share: their share of the file's multiply-accumulates, 0 to 1.
    """

    products: int
    of_products: int
    macs_share: float


@dataclass(frozen=True)
class TimedModel:
    """The times of the layers of a model, in the order of execution.

    Attributes:
        peaks: of the runtime on this machine; None where they were not measured.
        untimed: of an ONNX file; None of a checkpoint, whose modules are all timed.
    """

    path: Path
    times: LayerTimes
    layers: tuple[TimedLayer, ...]
    peaks: Peaks | None
    untimed: Untimed | None = None

    @property
    def opaque(self) -> dict[str, float]:
        """The time (ms) in layers that tell no node of the file, by operator, longest first."""
        return _summed((layer.operator, layer.ms) for layer in self.layers if not layer.nodes)

    @property
    def opaque_share(self) -> float:
        """The share of the time in layers that tell no node of the file, 0 to 1."""
        return self.share(sum(self.opaque.values()))

    @property
    def by_bound(self) -> dict[str, float]:
        """The share of the time by what bounds the layers, largest first; "unknown" where their work is not known."""
        times = ((layer.placement.bound if layer.placement else "unknown", layer.ms) for layer in self.layers)
        return {bound: self.share(ms) for bound, ms in _summed(times).items()}

    @property
    def by_module(self) -> dict[str, float]:
        """The time (ms) of each module without its children, longest first; "" where it is not known."""
        return _summed((layer.module, layer.ms) for layer in self.layers)

    def share(self, ms: float) -> float:
        """Of the sum of the layers."""
        return ms / self.times.sum_ms if self.times.sum_ms else 0.0

    def to_json(self) -> Json:
        """The whole of it."""
        return {
            **self.times.to_json(),
            "opaque_share": self.opaque_share,
            "opaque_ms": self.opaque,
            "by_module_ms": self.by_module,
            "by_bound": self.by_bound,
            "untimed": asdict(self.untimed) if self.untimed else None,
            "peaks": self.peaks.to_json() if self.peaks else None,
            "layers": [asdict(layer) for layer in self.layers],
        }


def timed_onnx(file: Path, times: LayerTimes, float_precision: str, peaks: Peaks | None) -> TimedModel:
    """The times of an ONNX file.

    Args:
        float_precision: in which the runtime multiplies what is not quantized.

    Raises:
        ArtifactError: the file is not a valid ONNX file.
    """
    graph = graph_of(for_batch_of(read_onnx(file), times.batch_size), file)
    modules, work = module_paths(graph), _macs_by_node(graph)

    def module(layer: LayerTime) -> str:
        return next((path for name in (layer.name, *layer.nodes) if (path := modules.get(name))), "")

    def macs_of(layer: LayerTime) -> int | None:
        known = [work[name] for name in layer.nodes]
        if not known or None in known or (layer.operator in PRODUCT_KERNELS and not any(known)):
            return None
        return sum(count for count in known if count)

    timed = _timed(file, times, float_precision, peaks, module, macs_of)
    return replace(timed, untimed=_untimed(times, work))


def timed_checkpoint(folder: Path, times: LayerTimes, peaks: Peaks | None) -> TimedModel:
    """The times of a checkpoint, whose layers are its modules."""
    return _timed(
        folder, times, "float32", peaks, lambda layer: layer.name if layer.nodes else "", lambda one: one.macs
    )


def _timed(
    path: Path,
    times: LayerTimes,
    float_precision: str,
    peaks: Peaks | None,
    module: Callable[[LayerTime], str],
    macs_of: Callable[[LayerTime], int | None],
) -> TimedModel:
    def timed(layer: LayerTime) -> TimedLayer:
        precision, count = "int8" if layer.is_int8 else float_precision, macs_of(layer)
        return TimedLayer(
            name=layer.name,
            operator=layer.operator,
            module=module(layer),
            nodes=layer.nodes,
            ms=layer.median_ms,
            macs=count,
            bytes=layer.bytes,
            precision=precision,
            placement=placed(layer.median_ms, count, layer.bytes, precision, peaks) if peaks else None,
        )

    return TimedModel(path, times, tuple(map(timed, times.layers)), peaks)


def _macs_by_node(graph: Graph) -> dict[str, int | None]:
    """Multiply-accumulates of each node; None where they are not counted."""
    uncounted = {*UNCOUNTED, "If", "Loop", "Scan"}
    return {
        node.name: macs(node, graph) if node.op_type in OPERANDS else None if node.op_type in uncounted else 0
        for node in graph.nodes
    }


def _untimed(times: LayerTimes, work: Mapping[str, int | None]) -> Untimed:
    timed = {name for layer in times.layers for name in layer.nodes}
    products = {name: count or 0 for name, count in work.items() if count != 0}
    missing = {name: count for name, count in products.items() if name not in timed}
    return Untimed(len(missing), len(products), sum(missing.values()) / max(1, sum(products.values())))


def _summed(pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    sums = defaultdict[str, float](float)
    for name, ms in pairs:
        sums[name] += ms
    return dict(sorted(sums.items(), key=lambda item: -item[1]))
