"""The times of the layers of an ONNX file in OpenVINO on the CPU, by OpenVINO's performance counters.

A counter is the mean of all runs since the graph was compiled, in whole microseconds, rounded down. So there is one
time of a kernel for all runs: a mean, not a median. The graph is compiled a second time, with marks for names: a kernel
tells the names of the operators that were fused in it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import openvino

from edgevit.artifacts import IOSpec
from edgevit.configs.runtimes import OPENVINO
from edgevit.configs.targets import LOCAL_CPU
from edgevit.graphs.files import read_onnx
from edgevit.graphs.graph import Graph
from edgevit.graphs.guard import graph_tool
from edgevit.graphs.kernels import SELECTIONS, completed
from edgevit.graphs.marks import marked, marks_in, shown_name
from edgevit.profiling import Measurement
from edgevit.profiling.layer_times import (
    LayerTime,
    LayerTimes,
    layer_times,
    run_profiled,
)
from edgevit.provenance import title_with_version
from edgevit.runtimes.base import Arrays
from edgevit.runtimes.openvino.session import CANNOT_LOAD, compiled, core, explained

COUNTERS = {"PERF_COUNT": True}
FIRST_RUNS = 10  # before the counters are read: a first run is slow
IN_8_BITS = "_I8"  # end of the name of a kernel
LAYER_TYPE, ORIGINAL_NAMES = "layerType", "originalLayersNames"


class Kernel(NamedTuple):
    """A kernel of the compiled model: the nodes of the file in it, and the bytes that it reads and writes."""

    nodes: tuple[str, ...]
    bytes: int | None


def times_in_openvino(
    path: Path, properties: Mapping[str, Any], threads: int, spec: IOSpec, feed: Arrays, plain: Measurement
) -> LayerTimes:
    """The times of the kernels of a file, from runs that follow those of `plain`.

    Raises:
        ArtifactError: the graph cannot be read, or OpenVINO cannot run it.
    """
    with graph_tool("the graph cannot be read", path):
        source = Graph(read_onnx(path))
    with TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        file.write_bytes(marked(source.model).SerializeToString())
        model = explained(CANNOT_LOAD, path, lambda: core().read_model(file))
        network = compiled(model, spec, plain.plan.batch_size, {**properties, **COUNTERS}, path)
    request = network.create_infer_request()
    for _ in range(FIRST_RUNS):
        request.infer(feed)
    before = _counters(request)
    without_warmup = replace(plain.plan, warmup_s=0)
    profiled = run_profiled(lambda: request.infer(feed), without_warmup, plain, len(before))
    layers = _layers(before, _counters(request), len(profiled.samples_ms), kernels_of(network, source), source)
    runtime = title_with_version(OPENVINO)
    times = layer_times(layers, profiled, plain, LOCAL_CPU, runtime, threads)
    return replace(times, statistic="mean", is_in_microseconds=True)


def _counters(request: openvino.InferRequest) -> list[openvino.ProfilingInfo]:
    return list(request.get_profiling_info())


def _layers(
    before: list[openvino.ProfilingInfo],
    after: list[openvino.ProfilingInfo],
    runs: int,
    kernels: Mapping[str, Kernel],
    source: Graph,
) -> list[LayerTime]:
    """The kernels that took time in the runs between two readings of the counters."""
    layers = []
    for first, last in zip(before, after, strict=True):
        ms = mean_between(_ms(first), FIRST_RUNS, _ms(last), runs)
        if ms > 0:
            kernel = kernels.get(last.node_name, Kernel((), None))
            name = shown_name(last.node_name, kernel.nodes, source)
            is_int8 = last.exec_type.endswith(IN_8_BITS)
            layers.append(LayerTime(name, ms, ms, last.node_type, kernel.nodes, kernel.bytes, is_int8=is_int8))
    return layers


def mean_between(first_ms: float, first_runs: int, last_ms: float, runs: int) -> float:
    """The mean of `runs` runs, from the means before them and with them; at least 0."""
    return max(0.0, (last_ms * (first_runs + runs) - first_ms * first_runs) / runs)


def _ms(counter: openvino.ProfilingInfo) -> float:
    return float(counter.real_time.total_seconds() * 1e3)


def kernels_of(network: openvino.CompiledModel, source: Graph) -> dict[str, Kernel]:
    """The kernels by their names, in the order of execution, without the work on constants that is done at load.

    A kernel reads the outputs of others, weights among them.
    """
    at_load, kernels = set[str](), list[openvino.Node]()
    for node in network.get_runtime_model().get_ordered_ops():
        reads = [read.get_source_output().get_node().get_friendly_name() for read in node.inputs()]
        if _rt_info(node, LAYER_TYPE) == "Const" or (reads and at_load.issuperset(reads)):
            at_load.add(node.get_friendly_name())
        else:
            kernels.append(node)
    places = completed([_places(_rt_info(node, ORIGINAL_NAMES), source) for node in kernels], source)
    return {
        node.get_friendly_name(): Kernel(
            tuple(source.nodes[place].name for place in found),
            _moved_bytes(node),
        )
        for node, found in zip(kernels, places, strict=True)
    }


def _places(names: str, source: Graph) -> set[int]:
    """The places of the nodes of a kernel, by their marks, or by the outputs of the graph that they make."""
    makers = (source.maker.get(name.removesuffix("_original")) for name in names.split(","))
    return {*marks_in(names), *(source.places[maker.name] for maker in makers if maker is not None)}


def _rt_info(node: openvino.Node, key: str) -> str:
    info = node.get_rt_info()
    return str(info[key].value) if key in info else ""


def _bytes(tensor: openvino.Output) -> int | None:
    shape, element = tensor.get_partial_shape(), tensor.get_element_type()
    if shape.is_dynamic or element.is_dynamic():
        return None if shape.is_dynamic else 0  # a tensor without a type is an empty one: a bias that is not there
    bits: int = math.prod(shape.to_shape()) * element.bitwidth
    return math.ceil(bits / 8)


def _moved_bytes(node: openvino.Node) -> int | None:
    written = [_bytes(output) for output in node.outputs()]
    read = [_bytes(one.get_source_output()) for one in node.inputs()]
    if _rt_info(node, LAYER_TYPE) in SELECTIONS:
        read[:1] = written
    return _total([*read, *written])


def _total(sizes: list[int | None]) -> int | None:
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None
