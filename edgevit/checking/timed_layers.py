"""The times of a model's layers beside their modules, their work, and the roofline of the machine."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter

from edgevit.artifacts import Artifact, Json
from edgevit.checking.check import graph_of
from edgevit.checking.layers import kernels_of_engine
from edgevit.checking.plan import Kernel
from edgevit.checking.shapes import for_batch_of
from edgevit.configs.runtimes import TENSORRT, TORCH
from edgevit.graphs.cost import macs
from edgevit.graphs.files import onnx_file, read_onnx
from edgevit.graphs.graph import INTEGER_PRODUCTS, OPERANDS, UNCOUNTED, Graph
from edgevit.graphs.modules import module_paths
from edgevit.latency_model.boards import peaks_of_machine
from edgevit.profiling import MeasurePlan
from edgevit.profiling.layer_times import LayerTime, LayerTimes
from edgevit.profiling.roofline import Peaks, Placement, placed
from edgevit.runtimes.base import Session, fixed_batch, runtime_of
from edgevit.targets.trtexec.commands import LAYERS, MODEL

# Kernels of ONNX Runtime and OpenVINO that multiply: without a product among their nodes, their work is not known.
PRODUCT_KERNELS = {
    *OPERANDS, *UNCOUNTED, *INTEGER_PRODUCTS, "FusedConv", "FusedGemm", "FusedMatMul",
    "Convolution", "Deconvolution", "FullyConnected", "ScaledDotProductAttention",
}  # fmt: skip

TIMES_FILE = "layer_times.json"  # of a latency: the timed model
TENSORRT_TYPES = {"half": "float16", "float": "float32"}


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

    @property
    def part(self) -> str:
        """The module, at most two names deep: blocks.0 of blocks.0.attn.qkv."""
        return ".".join(self.module.split(".")[:2])


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

    @property
    def by_part(self) -> dict[str, float]:
        """The time (ms) of each part of the model, in the order of execution; "" of unknown modules is last."""
        parts = defaultdict[str, float](float)
        for layer in sorted(self.layers, key=lambda layer: not layer.part):
            parts[layer.part] += layer.ms
        return dict(parts)

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


_TIMED = TypeAdapter(TimedModel)


def json_of_timed(timed: TimedModel) -> bytes:
    """The content of a file TIMES_FILE."""
    return _TIMED.dump_json(timed)


def timed_of_json(content: bytes) -> TimedModel:
    """The timed model in such a file."""
    return _TIMED.validate_json(content)


def timed_in(
    session: Session, model: Artifact, plan: MeasurePlan, threads: int, say: Callable[[str], None]
) -> TimedModel | None:
    """The times of the layers of an open model, under the roofline of its machine; None if the target tells none.

    The peaks of this CPU are measured once and kept; those of a board are nominal.

    Args:
        threads: CPU threads of the session.
        say: receives a line where a user waits.

    Raises:
        ArtifactError: the model or its layers cannot be read.
    """
    from edgevit.runtimes.peaks import peaks_here

    times, runtime = session.layers(plan), runtime_of(model)
    if times is None:
        return None
    if runtime == TENSORRT.name:
        return timed_engine(model, times)
    peaks = peaks_here(runtime, threads, say)
    if runtime == TORCH.name:
        return timed_checkpoint(model.path, times, peaks)
    return timed_onnx(onnx_file(model), times, model.model_file.options.inference_precision, peaks)


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
    return replace(timed, untimed=_untimed(_nodes_in(timed.layers), work))


def timed_checkpoint(folder: Path, times: LayerTimes, peaks: Peaks | None) -> TimedModel:
    """The times of a checkpoint, whose layers are its modules."""
    return _timed(
        folder, times, "float32", peaks, lambda layer: layer.name if layer.nodes else "", lambda one: one.macs
    )


def timed_engine(engine: Artifact, times: LayerTimes) -> TimedModel:
    """The times of a TensorRT engine, under the roofline of the board that built it, if its figures are known.

    Raises:
        ArtifactError: the layers of the engine cannot be read, or it does not hold its ONNX file.
    """
    source = engine.file(MODEL)
    graph = graph_of(for_batch_of(read_onnx(source), times.batch_size), source)
    kernels, machine = kernels_of_engine(engine.file(LAYERS)), engine.model_file.bound_to
    peaks = peaks_of_machine(machine) if machine is not None else None
    is_sized = times.batch_size == 1 or fixed_batch(engine.io) is not None
    work, modules = _macs_by_node(graph), module_paths(graph)
    by_kernel = _nodes_by_kernel(kernels, graph)
    told = times.by_layer([kernel.name for kernel in kernels])

    def timed(place: int, kernel: Kernel, ms: float) -> TimedLayer:
        precision = TENSORRT_TYPES.get(kernel.multiplied_type, kernel.multiplied_type or engine.model_file.precision)
        counts, nodes = [work[name] for name in by_kernel[place]], by_kernel[place]
        is_known = nodes and None not in counts and (any(counts) or not (kernel.is_product or kernel.is_opaque))
        count = sum(filter(None, counts)) if is_known else None
        moved = kernel.bytes_moved if is_sized else None
        return TimedLayer(
            name=kernel.name,
            operator=kernel.kind,
            module=next((path for name in nodes if (path := modules.get(name))), ""),
            nodes=nodes,
            ms=ms,
            macs=count,
            bytes=moved,
            precision=precision,
            placement=placed(ms, count, moved, precision, peaks) if peaks else None,
        )

    layers = [timed(place, kernel, ms or 0.0) for place, (kernel, ms) in enumerate(zip(kernels, told, strict=True))]
    if elsewhere_ms := times.elsewhere_ms([kernel.name for kernel in kernels]):
        layers.append(TimedLayer("", "not named", "", (), elsewhere_ms, None, None, "", None))
    version = machine.versions.get(TENSORRT.name) if machine is not None else None
    times = replace(times, runtime=f"{TENSORRT.title} {version or ''}".strip())
    return TimedModel(engine.path, times, tuple(layers), peaks, _untimed(_nodes_in(layers), work))


def _nodes_by_kernel(kernels: Sequence[Kernel], graph: Graph) -> list[tuple[str, ...]]:
    """The nodes of the graph in each kernel. A node that several kernels name is in the first that multiplies."""
    known = {node.name for node in graph.nodes}
    order = sorted(range(len(kernels)), key=lambda place: not kernels[place].is_product)
    owner: dict[str, int] = {}
    for place in order:
        for node in kernels[place].nodes:
            owner.setdefault(node, place)
    return [
        tuple(node for node in kernel.nodes if node in known and owner[node] == place)
        for place, kernel in enumerate(kernels)
    ]


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


def _nodes_in(layers: Iterable[TimedLayer]) -> set[str]:
    return {name for layer in layers for name in layer.nodes}


def _untimed(timed: Collection[str], work: Mapping[str, int | None]) -> Untimed:
    products = {name: count or 0 for name, count in work.items() if count != 0}
    missing = {name: count for name, count in products.items() if name not in timed}
    return Untimed(len(missing), len(products), sum(missing.values()) / max(1, sum(products.values())))


def _summed(pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    sums = defaultdict[str, float](float)
    for name, ms in pairs:
        sums[name] += ms
    return dict(sorted(sums.items(), key=lambda item: -item[1]))
