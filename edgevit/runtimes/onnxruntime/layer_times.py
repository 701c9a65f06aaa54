"""The times of the layers of an ONNX file in ONNX Runtime on the CPU, by ONNX Runtime's profiler.

The profiler writes an event for each kernel, in whole microseconds. The graph is loaded a second time, with marks for
names, so that the nodes of the file are found again in the kernels that ONNX Runtime has made of them.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
from onnx import NodeProto

from edgevit.configs.runtimes import ONNXRUNTIME
from edgevit.configs.targets import LOCAL_CPU
from edgevit.errors import ArtifactError
from edgevit.graphs.files import read_onnx
from edgevit.graphs.graph import INTEGER_PRODUCTS, Graph
from edgevit.graphs.guard import graph_tool
from edgevit.graphs.index import GraphIndex
from edgevit.graphs.kernels import SELECTIONS
from edgevit.graphs.marks import marked, shown_name, sources_of
from edgevit.graphs.tensors import bytes_of_constant
from edgevit.model_file import RuntimeOptions
from edgevit.profiling import Measurement
from edgevit.profiling.layer_times import (
    LayerTime,
    LayerTimes,
    layer_times,
    mean_and_median,
    run_profiled,
    times_by_layer,
)
from edgevit.provenance import title_with_version
from edgevit.runtimes.base import Arrays
from edgevit.runtimes.onnxruntime.session import inference_session, run_session

KERNEL = "_kernel_time"
# Kernels whose output lies in the memory of their input.
IN_PLACE = {"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"}


def times_in_onnxruntime(
    path: Path, options: RuntimeOptions, threads: int, outputs: list[str], feed: Arrays, plain: Measurement
) -> LayerTimes:
    """The times of the kernels of a file, from runs that follow those of `plain`.

    Raises:
        ArtifactError: the graph or ONNX Runtime's profile cannot be read.
    """
    with graph_tool("the graph cannot be read", path):
        source = Graph(read_onnx(path))
    with TemporaryDirectory() as folder:
        file, written = Path(folder) / "model.onnx", Path(folder) / "optimized.onnx"
        file.write_bytes(marked(source.model).SerializeToString())
        session = inference_session(
            file, options, threads, optimized_path=written, profile_prefix=Path(folder) / "profile"
        )
        optimized = GraphIndex(onnx.load(written))
        profiled = run_profiled(
            lambda: run_session(session, outputs, feed, path), plain.plan, plain, len(optimized.nodes)
        )
        names = {node.name for node in optimized.nodes}
        runs = list(runs_in(Path(session.end_profiling()), names, path))[-len(profiled.samples_ms) :]
    layers = _layers(runs, optimized, source)
    profiled = replace(profiled, samples_ms=profiled.samples_ms[-len(runs) :])  # the profiler has a limit of its own
    runtime = title_with_version(ONNXRUNTIME)
    times = layer_times(layers, profiled, plain, LOCAL_CPU, runtime, threads)
    return replace(times, is_in_microseconds=True)


def _layers(runs: list[list[dict[str, Any]]], optimized: GraphIndex, source: Graph) -> list[LayerTime]:
    """The kernels in the order of execution."""
    nodes, sources = {node.name: node for node in optimized.nodes}, sources_of(optimized, source)
    times = times_by_layer([(_name(event), event["dur"] / 1e3) for event in run] for run in runs)
    events = {_name(event): event for run in runs for event in run}
    return [
        LayerTime(
            shown_name(name, sources.get(name, ()), source),
            *mean_and_median(samples_ms),
            operator=events[name]["args"]["op_name"],
            nodes=sources.get(name, ()),
            bytes=_bytes(events[name]["args"], nodes.get(name), optimized),
            is_int8=events[name]["args"]["op_name"] in INTEGER_PRODUCTS,
        )
        for (name, _), samples_ms in times.items()
    ]


def _name(event: dict[str, Any]) -> str:
    return str(event["name"]).removesuffix(KERNEL)


def _bytes(told: dict[str, Any], node: NodeProto | None, optimized: GraphIndex) -> int:
    """Bytes that a kernel reads and writes. The profiler leaves out weights that the kernel has packed at load."""
    if told["op_name"] in IN_PLACE:
        return 0
    written, is_selection = int(told["output_size"]), told["op_name"] in SELECTIONS
    read = 0 if told["op_name"] == "Shape" else written if is_selection else int(told["activation_size"])
    inputs = list(node.input)[is_selection:] if node is not None else []
    constants = {name for name in inputs if name in optimized.constants}
    return read + written + sum(bytes_of_constant(optimized.constants[name]) for name in constants)


def runs_in(profile: Path, names: Collection[str], where: object) -> Iterator[list[dict[str, Any]]]:
    """The kernels' events of each run. Kernels in the bodies of If, Loop and Scan are in the time of these.

    Args:
        names: of the nodes of the main graph.
    """
    try:
        events = json.loads(profile.read_bytes())
    except ValueError as error:
        raise ArtifactError("ONNX Runtime's profile cannot be read", where=where, got=str(error)) from None
    run, is_any = list[dict[str, Any]](), False
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith(KERNEL):
            run.append(event)
        elif event["name"] == "model_run":
            yield _outermost(run, names)
            run, is_any = [], True
    if not is_any:
        raise ArtifactError("ONNX Runtime's profile has no run", where=where, next="profile a smaller model")


def _outermost(run: list[dict[str, Any]], names: Collection[str]) -> list[dict[str, Any]]:
    """The events that are in no other. One of 0 µs may start in the microsecond in which another kernel starts."""
    kept, end = [], -1
    for event in sorted(run, key=lambda event: (event["ts"], -event["dur"])):
        if event["ts"] >= end or (event["dur"] == 0 and _name(event) in names):
            kept.append(event)
            end = max(end, event["ts"] + event["dur"])
    return kept
