"""ONNX Runtime's CUDA provider: what can be told without a GPU, on sessions that run on the CPU."""

from __future__ import annotations

import os
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from edgevit.context import Context
from edgevit.errors import ArtifactError, MissingDependency, TargetError
from edgevit.graphs.files import onnx_file
from edgevit.profiling import MeasurePlan
from edgevit.provenance import version_of
from edgevit.runtimes.base import SessionOptions, random_images
from edgevit.runtimes.onnxruntime.cuda_provider import check_has_cuda_provider, has_cuda_provider
from edgevit.runtimes.onnxruntime.cuda_session import (
    CUDA,
    RECORD_PROVIDERS,
    CudaSession,
    check_uses_cuda,
    operators_on_cpu,
    parts_on_device,
    run_on_device,
    shape_nodes,
    stderr_kept,
)
from edgevit.targets import target_for
from edgevit.targets.local import LocalCpu
from tests.runtimes.cuda_library import install_cuda_library
from tests.small_models import float_onnx

# What ONNX Runtime 1.31.1 with CUDA prints on a machine without CUDA, without its colors.
PRINTED = """\
2026-11-29 19:46:04.973 [W:onnxruntime:Default, onnxruntime_pybind_state.cc:856 operator()] No registered plugin EP
2026-11-29 19:46:04.974 [E:onnxruntime:Default, provider_bridge_ort.cc:2458 operator()] /onnxruntime_src/onnxruntime/\
core/session/provider_bridge_ort.cc:2043 onnxruntime::Provider& onnxruntime::ProviderLibrary::Get() [ONNXRuntimeError] \
: 1 : FAIL : Failed to load library /env/onnxruntime/capi/libonnxruntime_providers_cuda.so with error: \
libcublasLt.so.13: cannot open shared object file: No such file or directory

2026-11-29 19:46:04.974 [W:onnxruntime:Default, onnxruntime_pybind_state.cc:1295 CreateExecutionProviderFactory\
Instance] Failed to create CUDAExecutionProvider. Require cuDNN 9.* and CUDA 13.*.
"""


@pytest.fixture(scope="module")
def on_cpu() -> onnxruntime.InferenceSession:
    """A session that runs every node of its file as it is, and records where."""
    options = onnxruntime.SessionOptions()
    for key, value in RECORD_PROVIDERS.items():
        options.add_session_config_entry(key, value)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(onnx_file(float_onnx()), options, providers=["CPUExecutionProvider"])


def test_the_operators_that_the_cpu_runs_are_counted(on_cpu: onnxruntime.InferenceSession) -> None:
    nodes = onnx.load(onnx_file(float_onnx())).graph.node
    assert operators_on_cpu(on_cpu) == Counter(node.op_type for node in nodes if node.op_type != "Constant")


def test_operators_that_compute_shapes_are_told_apart(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["sizes"], "sizes"),
        helper.make_node("Gather", ["sizes", "zero"], ["rows"], "rows"),
        helper.make_node("Concat", ["rows", "rest"], ["target"], "target", axis=0),
        helper.make_node("Reshape", ["x", "target"], ["flat"], "flat"),
        helper.make_node("Gather", ["flat", "zero"], ["y"], "first row"),
    ]
    constants = [
        helper.make_tensor(name, TensorProto.INT64, [1], [value]) for name, value in (("zero", 0), ("rest", -1))
    ]
    x, y = helper.make_tensor_value_info("x", 1, ["n", 2, 3]), helper.make_tensor_value_info("y", 1, [1, 6])
    graph = helper.make_graph(nodes, "shapes", [x], [y], constants)
    file = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), file)
    assert shape_nodes(file) == {"sizes", "rows", "target"}
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    for key, value in RECORD_PROVIDERS.items():
        options.add_session_config_entry(key, value)
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    assert operators_on_cpu(session) == {"Shape": 1, "Gather": 2, "Concat": 1, "Reshape": 1}
    assert operators_on_cpu(session, without=shape_nodes(file)) == {"Gather": 1, "Reshape": 1}


def test_a_session_without_cuda_is_refused(on_cpu: onnxruntime.InferenceSession) -> None:
    with pytest.raises(TargetError, match="could not start its CUDA provider") as caught:
        check_uses_cuda(on_cpu, "")
    assert (caught.value.got, caught.value.expected) == ("CPUExecutionProvider", CUDA)
    with pytest.raises(TargetError) as caught:
        check_uses_cuda(on_cpu, PRINTED)
    assert str(caught.value.got).startswith(
        "Failed to load library /env/onnxruntime/capi/libonnxruntime_providers_cuda.so"
    )
    assert "libcublasLt.so.13: cannot open" in str(caught.value.got)
    assert f"'onnxruntime-gpu[cuda,cudnn]=={onnxruntime.__version__}'" in str(caught.value.next)


@pytest.mark.skipif(has_cuda_provider(), reason="needs an ONNX Runtime without CUDA")
def test_the_library_of_the_provider_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingDependency, match="has no CUDA provider") as caught:
        check_has_cuda_provider()
    assert caught.value.got == f"onnxruntime {onnxruntime.__version__}"
    install_cuda_library(tmp_path, monkeypatch)
    check_has_cuda_provider()


def test_what_is_printed_from_below_python_is_kept(capfd: pytest.CaptureFixture[str]) -> None:
    with stderr_kept() as printed:
        os.write(2, b"the reason\n")
    os.write(2, b"later\n")
    assert printed == ["the reason\n"]
    with pytest.raises(ZeroDivisionError), stderr_kept():
        os.write(2, b"before the fault\n") / 0
    assert capfd.readouterr().err == "later\nbefore the fault\n"


def test_a_run_on_a_device_gives_the_outputs_there(on_cpu: onnxruntime.InferenceSession) -> None:
    feed, names = {"image": random_images(float_onnx().io, 3)}, ["logits"]
    run = run_on_device(on_cpu, names, feed, "cpu", "model.onnx")
    run()
    bound = run()
    assert isinstance(bound, onnxruntime.IOBinding)
    (logits,) = bound.copy_outputs_to_cpu()
    np.testing.assert_array_equal(logits, on_cpu.run(names, feed)[0])


def test_a_run_to_a_device_and_back_has_its_copies_as_parts(on_cpu: onnxruntime.InferenceSession) -> None:
    images = random_images(float_onnx().io, 3)
    parts = parts_on_device(on_cpu, "image", ["logits"], "cpu", "model.onnx")
    assert [name for name, _ in parts] == ["copy in", "compute", "copy out"]
    value: Any = images
    for _, part in parts:
        value = part(value)
    assert list(value) == ["logits"]
    np.testing.assert_array_equal(value["logits"], on_cpu.run(["logits"], {"image": images})[0])


def test_errors_of_a_run_on_a_device_are_explained(on_cpu: onnxruntime.InferenceSession) -> None:
    wrong = {"image": np.zeros((1, 1, 1, 1), np.float32)}
    with pytest.raises(ArtifactError, match="ONNX Runtime cannot run it") as caught:
        run_on_device(on_cpu, ["logits"], wrong, "cpu", "model.onnx")()
    assert caught.value.where == "model.onnx"
    if not has_cuda_provider():
        with pytest.raises(ArtifactError, match="cannot place its inputs and outputs on 'cuda'"):
            run_on_device(on_cpu, ["logits"], wrong, "cuda", "model.onnx")


@pytest.mark.skipif(
    CUDA not in onnxruntime.get_available_providers() or shutil.which("nvidia-smi") is None,
    reason="needs an NVIDIA GPU and onnxruntime-gpu[cuda,cudnn]",
)
def test_a_gpu_computes_what_the_cpu_does() -> None:
    images, target = random_images(float_onnx().io, 5), target_for("local-gpu", Context())
    with LocalCpu().open(float_onnx(), SessionOptions()) as here:
        expected = here.infer({"image": images})["logits"]
    with target.open(float_onnx(), SessionOptions()) as there:
        assert isinstance(there, CudaSession)
        np.testing.assert_allclose(there.infer({"image": images})["logits"], expected, rtol=1e-3, atol=1e-4)
        timed = there.measure(MeasurePlan(warmup_s=0, duration_s=0.05, min_runs=5, boundary="end_to_end"))
        assert list(timed.parts_ms) == ["decode", "preprocess", "copy in", "compute", "copy out", "post"]
        (logits,) = there.work(MeasurePlan(batch_size=5))().copy_outputs_to_cpu()  # type: ignore[attr-defined]
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)


def test_the_version_is_that_of_the_distribution_with_cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path / "empty")])
    assert version_of("onnxruntime") is None
    monkeypatch.setattr(sys, "path", [str(tmp_path / "with-cuda")])
    record = tmp_path / "with-cuda" / "onnxruntime_gpu-1.99.0.dist-info" / "METADATA"
    record.parent.mkdir(parents=True)
    record.write_text("Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.99.0\n")
    assert version_of("onnxruntime") == "1.99.0"
    assert version_of("openvino") is None
