"""The times of layers in the runtimes of a CPU, mapped back to the model. No test rests on how long a layer took."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgevit.artifacts import Artifact
from edgevit.errors import ArtifactError
from edgevit.graphs.files import artifact_from_onnx, onnx_file, read_onnx
from edgevit.graphs.graph import OPERANDS, Graph
from edgevit.models import model_from_checkpoint
from edgevit.profiling import Measurement, MeasurePlan
from edgevit.profiling.layer_times import (
    MOST_TIMES,
    LayerTimes,
    ProfiledRuns,
    layer_times,
    run_profiled,
    times_by_layer,
)
from edgevit.runtimes.base import SessionOptions, for_runtime
from edgevit.runtimes.onnxruntime.layer_times import runs_in
from edgevit.targets.local import LocalCpu
from tests.checking.graphs import model, node
from tests.runtimes.test_fused_products import kernels_in_openvino
from tests.small_models import checkpoint, engine, float_onnx, int8_onnx

SHORT = MeasurePlan(warmup_s=0, duration_s=0.01, min_runs=5)


def times_of(artifact: Artifact, runtime: str | None = None, plan: MeasurePlan = SHORT) -> LayerTimes:
    with LocalCpu().open(for_runtime(artifact, runtime), SessionOptions(threads=1)) as session:
        found = session.layers(plan)
    assert found is not None
    return found


def products_of(artifact: Artifact) -> list[str]:
    return [one.name for one in Graph(read_onnx(onnx_file(artifact))).of_type(*OPERANDS)]


@pytest.mark.parametrize("hybrid", [False, True], ids=["vit", "hybrid"])
@pytest.mark.parametrize("made", [float_onnx, int8_onnx, engine])
def test_every_product_is_in_one_kernel_of_onnxruntime(made: Callable[[bool], Artifact], hybrid: bool) -> None:
    artifact = made(hybrid)
    times = times_of(artifact)
    computed = Counter(name for layer in times.layers for name in layer.nodes)
    products = products_of(artifact)
    assert {name: computed[name] for name in products} == dict.fromkeys(products, 1)
    assert times.engine_ms > 0
    assert times.profiled_ms > 0
    assert times.runs >= SHORT.min_runs
    assert (times.batch_size, times.threads, times.label) == (1, 1, "measured")
    assert times.runtime.startswith("ONNX Runtime 1.")
    untold = [layer.operator for layer in times.layers if not layer.nodes]
    assert set(untold) <= {"Transpose", "ReorderInput", "ReorderOutput", "QuantizeLinear", "DequantizeLinear"}


def test_bytes_and_precision_in_onnxruntime() -> None:
    """fc1 of 17 tokens: it reads 17 × 48 and the weight, 48 × 192, and writes 17 × 192, in 4 bytes each."""
    by_name = {layer.name: layer for layer in times_of(float_onnx()).layers}
    assert by_name["blocks.0.mlp.fc1"].bytes == 4 * (17 * 48 + 48 * 192 + 17 * 192)
    views = [layer.bytes for layer in by_name.values() if layer.operator == "Reshape"]
    assert views == [0] * len(views) != []
    assert not any(layer.is_int8 for layer in by_name.values())
    layers = {layer.name: layer for layer in times_of(int8_onnx()).layers}
    assert layers["blocks.0.mlp.fc1"].is_int8
    assert 48 * 192 <= layers["blocks.0.mlp.fc1"].bytes < by_name["blocks.0.mlp.fc1"].bytes


def test_two_images_move_twice_the_activations() -> None:
    one, two = (
        {layer.name: layer for layer in times_of(float_onnx(), plan=plan).layers}
        for plan in (SHORT, MeasurePlan(warmup_s=0, duration_s=0.01, min_runs=5, batch_size=2))
    )
    weight = 4 * 48 * 192
    assert two["blocks.0.mlp.fc1"].bytes - weight == 2 * (one["blocks.0.mlp.fc1"].bytes - weight)


def test_kernels_in_a_branch_are_in_the_time_of_if(tmp_path: Path) -> None:
    """An If whose branch computes a product: its kernels would count twice."""
    value = onnx.helper.make_tensor_value_info("made", onnx.TensorProto.FLOAT, [1, 10])
    inner = [
        onnx.helper.make_node("MatMul", ["flat", "w"], ["inside"]),
        onnx.helper.make_node("Relu", ["inside"], ["made"]),
    ]
    branches = {name: onnx.helper.make_graph(inner, name, [], [value]) for name in ("then_branch", "else_branch")}
    nodes = [
        node("Flatten", ["image"], "flat"),
        node("ReduceSum", ["flat"], "sum", keepdims=0),
        node("Greater", ["sum", "zero"], "positive"),
        node("If", ["positive"], "logits", **branches),
    ]
    constants = {"zero": np.float32(0), "w": np.ones((3 * 32 * 32, 10), np.float32)}
    onnx.save(model(nodes, constants, [1, 3, 32, 32], [1, 10]), tmp_path / "model.onnx")
    times = times_of(artifact_from_onnx(tmp_path / "model.onnx"))
    assert [layer.operator for layer in times.layers] == ["Flatten", "ReduceSum", "Greater", "If"]


@pytest.mark.parametrize("made", [float_onnx, int8_onnx])
def test_openvino_tells_the_fused_nodes(made: Callable[[bool], Artifact]) -> None:
    """Kernels of less than a microsecond do not show; `test_fused_products.py` has all kernels."""
    artifact = made(True)
    times = times_of(artifact, "openvino", MeasurePlan(warmup_s=0, duration_s=0.2, min_runs=20))
    products = set(products_of(artifact))
    told = Counter(name for layer in times.layers for name in layer.nodes)
    assert all(told[name] == 1 for name in products & set(told))
    assert times.runtime.startswith("OpenVINO 20")
    assert (times.statistic, times.is_in_microseconds) == ("mean", True)
    for layer in times.layers:
        if layer.name == "stages.0.blocks.0.channel_mixer.conv1":
            assert (layer.operator, layer.is_int8) == ("Convolution", made is int8_onnx)
            assert layer.bytes > 0


@given(first=st.integers(0, 10_000), later=st.lists(st.integers(0, 200), min_size=50, max_size=200))
def test_a_mean_from_two_counters(first: int, later: list[int]) -> None:
    """OpenVINO's counters are means of all runs, in whole microseconds. The slow first run is taken out again."""
    pytest.importorskip("openvino")
    from edgevit.runtimes.openvino.layer_times import FIRST_RUNS, mean_between

    durations = [first, *[20] * (FIRST_RUNS - 1), *later]  # microseconds
    before, after = sum(durations[:FIRST_RUNS]) // FIRST_RUNS, sum(durations) // len(durations)
    mean = mean_between(before, FIRST_RUNS, after, len(later))
    # Each counter is at most 1 too low, which counts for all of its runs.
    assert mean >= 0
    assert abs(mean - np.mean(later)) <= len(durations) / len(later)


@pytest.mark.parametrize("hybrid", [False, True], ids=["vit", "hybrid"])
def test_modules_of_a_checkpoint(hybrid: bool) -> None:
    artifact = checkpoint(hybrid)
    paths = [path for path, _ in model_from_checkpoint(artifact).named_modules()]
    times = times_of(artifact)
    *modules, between = times.layers
    assert {layer.name for layer in modules[1:]} <= set(paths)
    assert [layer.name for layer in modules[1:]] == [path for path in paths if path in {one.name for one in modules}]
    assert (between.name, between.nodes) == ("between operators", ())
    assert sum(layer.macs for layer in modules) == artifact.metrics["macs"]
    if not hybrid:
        fc1 = next(layer for layer in modules if layer.name == "blocks.0.mlp.fc1")
        assert (fc1.operator, fc1.macs) == ("Linear", 17 * 48 * 192)
        assert fc1.bytes == 4 * (17 * 48 + 48 * 192 + 192 + 17 * 192)


def test_runs_are_limited_by_what_a_profiler_keeps() -> None:
    plain = Measurement(np.full(100, 0.001), MeasurePlan(warmup_s=1, duration_s=1000, min_runs=100))
    calls: list[int] = []
    profiled = run_profiled(lambda: calls.append(0), plain.plan, plain, layers=MOST_TIMES // 100)
    assert len(profiled.samples_ms) == 50
    assert (profiled.warmup, len(calls)) == (50, 100)


def test_both_runs_are_judged() -> None:
    """The second half of the profiled runs is slower by half: another program started."""
    plain = Measurement(np.full(200, 100.0), MeasurePlan())
    profiled = ProfiledRuns(0, (100.0,) * 100 + (150.0,) * 100)
    times = layer_times([], profiled, plain, "local-cpu", "ONNX Runtime 1", 1)
    assert plain.invalid == ()
    assert times.invalid
    assert all(reason.startswith("with the profiler: ") for reason in times.invalid)


def written(folder: Path, *runs: list[tuple[str, int, int]]) -> Path:
    """A profile of ONNX Runtime of kernels (name, start, duration), in microseconds."""
    events = [
        event
        for run in runs
        for event in (
            *({"cat": "Node", "name": f"{name}_kernel_time", "ts": ts, "dur": dur} for name, ts, dur in run),
            {"cat": "Session", "name": "model_run", "ts": 0, "dur": 100},
        )
    ]
    (folder / "profile.json").write_text(json.dumps(events), encoding="utf-8")
    return folder / "profile.json"


def test_a_kernel_of_no_time_is_not_taken_for_the_body_of_the_next(tmp_path: Path) -> None:
    """Both start in one microsecond. `body` runs in the time of the If, of no time or some."""
    profile = written(tmp_path, [("If", 0, 9), ("body", 3, 0), ("body", 4, 2), ("view", 9, 0), ("product", 9, 5)])
    (run,) = runs_in(profile, {"If", "view", "product"}, "model")
    assert sorted(event["name"] for event in run) == ["If_kernel_time", "product_kernel_time", "view_kernel_time"]


def test_a_profile_without_runs(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="profile has no run"):
        list(runs_in(written(tmp_path), set(), "model"))


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_selection_reads_what_it_writes(runtime: str, tmp_path: Path) -> None:
    """One row of 96 of 256 numbers, in 4 bytes, read and written, and at most 8 bytes of index for each number."""
    nodes = [
        node("Reshape", ["image", "shape"], "rows"),
        node("Gather", ["rows", "index"], "row", axis=1),
        node("MatMul", ["row", "w"], "logits"),
    ]
    values = np.ones((256, 10), np.float32)
    constants = {"shape": np.array([1, 96, 256], np.int64), "index": np.int64(3), "w": values}
    onnx.save(model(nodes, constants, [1, 3, 64, 128], [1, 10]), tmp_path / "model.onnx")
    if runtime == "openvino":
        moved = [
            one.bytes for one in kernels_in_openvino(tmp_path / "model.onnx", tmp_path) if nodes[1].name in one.nodes
        ]
    else:
        times = times_of(artifact_from_onnx(tmp_path / "model.onnx"), runtime)
        moved = [layer.bytes for layer in times.layers if layer.operator == "Gather"]
    assert len(moved) == 1
    assert 2 * 4 * 256 < moved[0] <= 2 * 4 * 256 + 16


def test_layers_of_one_name_are_told_apart() -> None:
    runs = [[("add", 1.0), ("mul", 2.0), ("add", 3.0)], [("add", 5.0), ("mul", 6.0), ("add", 7.0)]]
    assert times_by_layer(runs) == {("add", 0): [1.0, 5.0], ("mul", 0): [2.0, 6.0], ("add", 1): [3.0, 7.0]}
